# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Label maps that no segmentor can learn from are found before training."""

import re

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from mtkdrl_mm.datasets import label_maps
from mtkdrl_mm.datasets.label_maps import check_samples
from mtkdrl_mm.utils import InputError

KEY = 'model.decode_head.num_classes'


class Data(list):
    metainfo = dict(classes=('background', 'building'))


def segmentation(*values, **metainfo):
    sample = SegDataSample(metainfo=dict(seg_map_path='labels.png', **metainfo))
    sample.gt_sem_seg = PixelData(data=torch.tensor(values).view(1, 1, -1))
    return dict(data_samples=sample)


@pytest.fixture
def check(monkeypatch):
    """Function that checks samples, and returns the warnings."""
    lines = []
    monkeypatch.setattr(label_maps, 'print_log', lambda text, *a, **k: lines.append(text))

    def check(samples, split='train', num_classes=2, num_samples=16):
        lines.clear()
        check_samples(Data(samples), split, [(KEY, num_classes, 255)], num_samples)
        return lines

    return check


@pytest.mark.parametrize('shape', [(4, 5, 3), (4, 5, 2), (4, 5)])
def test_label_maps_of_several_channels(check, shape):
    sample = segmentation(0)
    sample['data_samples'].gt_sem_seg = PixelData()
    sample['data_samples'].gt_sem_seg.set_field(torch.zeros(shape), 'data')
    message = re.escape(f'The label map "labels.png" has the shape {shape}: it must have one chan')
    with pytest.raises(InputError, match=message):
        check([segmentation(0, 1), sample])


@pytest.mark.parametrize('values', [[0, 255], [255]])
@pytest.mark.parametrize('count', [1, 8, 700])
def test_masks_of_0_and_255(check, values, count):
    """255 is ignored: a network of one class would reach 100 %."""
    other = '1 ("building")' if 0 in values else '0 ("background")'
    samples = [segmentation(*values)] * count
    with pytest.raises(InputError) as error:
        check(samples)
    assert str(error.value) == (
        'The label maps of the training set, among them "labels.png", have only the '
        f'{"values 0 and 255" if 0 in values else "value 255"}, and 255 is ignored, but `{KEY}` is '
        f'2. If 255 means class {other}, write {other[0]} for 255 in them.'
    )
    for split, name in (('val', 'validation'), ('test', 'test')):
        if count < 16:  # a few images may lack a class
            assert check(samples, split) == []
        else:
            with pytest.raises(InputError, match=rf'label maps of the {name} set, .* only the va'):
                check(samples, split)


@pytest.mark.parametrize('values', [(1, 255), (0, 1)])
def test_one_image_with_another_class_is_found(check, values):
    samples = [segmentation(0, 255)] * 300
    samples[151] = segmentation(*values)
    assert check(samples) == check(samples, 'val') == []


def test_where_a_single_class_is_meant(check):
    boxes = DetDataSample(gt_instances=InstanceData(labels=torch.tensor([0])))
    assert check([segmentation(0, 255)], num_classes=1) == []
    assert check([dict(data_samples=boxes)] * 20) == []


@pytest.mark.parametrize('count', [1, 150, 299])
def test_masks_of_0_and_255_among_empty_ones(check, count):
    """They may be of one class by chance: that is a warning."""
    assert check([segmentation(0)] * (300 - count) + [segmentation(0, 255)] * count) == [
        '300 label maps have been read. The label maps of the training set, among them '
        f'"labels.png", have only the values 0 and 255, and 255 is ignored, but `{KEY}` is 2. If '
        '255 means class 1 ("building"), write 1 for 255 in them.'
    ]


def test_a_single_class_without_ignored_pixels(check):
    assert check([segmentation(1)] * 512, 'val') == [
        '512 label maps have been read. The label maps of the validation set, among them '
        f'"labels.png", have only the value 1, but `{KEY}` is 2. Check that these are the label '
        'maps that are meant: `data_prefix` and `seg_map_suffix` of val_dataloader.dataset.'
    ]


def test_background_that_is_ignored_by_a_setting(check):
    message = r'is 2\. `reduce_zero_label=True` turns 0 into 255, 1 into 0 and so on: set it to Fa'
    with pytest.raises(InputError, match=message):
        check([segmentation(0, 255, reduce_zero_label=True)])


def test_samples_are_spread_over_the_set(check):
    samples = [segmentation(0, 1)] * 9 + [segmentation(5)]
    check(samples, num_classes=3, num_samples=1)  # sees the first one alone
    with pytest.raises(InputError, match='has the labels 5'):
        check(samples, num_classes=3, num_samples=2)


def test_a_missing_label_map():
    class Missing(Data):
        def __getitem__(self, index):
            return open('gtFine/labels.png')

    message = (
        r'^The validation set names a file that does not exist: "gtFine/labels.png". '
        r'Check val_dataloader\.data'
    )
    with pytest.raises(InputError, match=message):
        check_samples(Missing([0]), 'val', [(KEY, 2, 255)], 16)
