# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Labels outside of the model's classes are found before training."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mtkdrl_mm.engine.hooks import LabelCheckHook
from mtkdrl_mm.utils import InputError


def model(num_classes):
    network = nn.Module()
    network.decode_head = nn.Module()
    network.decode_head.num_classes = num_classes
    return network


def segmentation(*values):
    label_map = torch.tensor(values).view(1, 1, -1)
    sample = SegDataSample(metainfo=dict(seg_map_path='labels.png'))
    return dict(data_samples=sample.set_data(dict(gt_sem_seg=PixelData(data=label_map))) or sample)


def detection(*labels):
    sample = DetDataSample(metainfo=dict(img_path='image.jpg'))
    sample.gt_instances = InstanceData(labels=torch.tensor(labels))
    return dict(data_samples=sample)


class Data(list):
    metainfo = dict(classes=('cat', 'dog', 'cow'))


def run(network, samples, data=Data, val=None, **kwargs):
    loaders = [SimpleNamespace(dataset=dataset) for dataset in (data(samples), val)]
    runner = SimpleNamespace(
        train_dataloader=loaders[0], val_dataloader=loaders[1], val_loop=val, model=network
    )
    LabelCheckHook(**kwargs).before_train(runner)


def test_good_labels_pass():
    run(model(3), [segmentation(0, 1, 2, 255), segmentation(2)])
    run(model(3), [detection(0, 2), detection()])
    run(nn.Linear(2, 2), [segmentation(99)])


@pytest.mark.parametrize('make', [segmentation, detection])
def test_a_label_without_a_class(make):
    samples = [make(0, 1)] * 4 + [make(0, 3, 7)]
    path = 'labels.png' if make is segmentation else 'image.jpg'
    with pytest.raises(
        InputError, match=rf'"{path}" has the labels 3, 7, but `model.decode_head.num_classes` is 3'
    ):
        run(model(3), samples)


def test_region_proposals_know_no_classes():
    """The RPN of two-stage detectors has one class, whatever the labels are."""
    network = model(3)
    network.rpn_head = nn.Module()
    network.rpn_head.num_classes = 1
    run(network, [detection(0, 2)])
    with pytest.raises(InputError, match='has the labels 3'):
        run(network, [detection(3)])


def test_samples_are_spread_over_the_set():
    samples = [segmentation(0)] * 9 + [segmentation(5)]
    run(model(3), samples, num_samples=1)  # sees the first one alone
    with pytest.raises(InputError, match='has the labels 5'):
        run(model(3), samples, num_samples=2)


def test_empty_set():
    with pytest.raises(InputError, match=r'training set is empty: .* cat, dog, cow'):
        run(model(3), [])


def test_heads_without_the_datas_classes():
    with pytest.raises(
        InputError,
        match=r'model.decode_head.num_classes` is 80, but .* has 3 classes: cat, dog, cow',
    ):
        run(model(80), [segmentation(0)])


def test_classes_that_the_annotations_do_not_have():
    class Coco(Data):
        cat_ids = (1, 4)
        ann_file = 'instances.json'

    with pytest.raises(
        InputError, match=r'cat, dog, cow, the annotation file "instances.json" .* 2'
    ):
        run(model(3), [detection(0)], data=Coco)


def test_validation_with_other_classes():
    class Other(Data):
        metainfo = dict(classes=('dog', 'cat', 'cow'))

    run(model(3), [detection(0)], val=Data())
    with pytest.raises(InputError, match='the validation set dog, cat, cow'):
        run(model(3), [detection(0)], val=Other())


def test_a_missing_label_map():
    class Missing(Data):
        def __getitem__(self, index):
            return open('gtFine/labels.png')

    with pytest.raises(InputError, match=r'names a file that does not exist: "gtFine/labels.png"'):
        run(model(3), [segmentation(0)], data=Missing)


def test_bad_arguments():
    with pytest.raises(InputError, match='`num_samples` must be at least 1'):
        LabelCheckHook(num_samples=0)
