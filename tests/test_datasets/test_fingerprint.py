# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Identity of a data set: the same after a move, another one after any other change."""

import shutil

import numpy as np
import pytest
from mmengine.registry import DATASETS
from mmpretrain.datasets import CustomDataset, RandomCrop
from PIL import Image
from torch.utils.data import Dataset

from mtkdrl_mm.datasets import (
    SeededDataset,
    dataset_record,
    fingerprint,
    pipeline_digest,
    sample_digest,
)
from mtkdrl_mm.utils import InputError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / 'here' / 'images'
    for name in ('cat', 'dog'):
        (root / name).mkdir(parents=True)
        for index in range(3):
            Image.new('RGB', (2, 2)).save(root / name / f'{index}.png')
    return root


def of_folder(root, **kwargs):
    return dataset_record(CustomDataset(data_root=str(root), pipeline=[], **kwargs))


class Listed(Dataset):
    """A data set that describes its samples, and does no more."""

    def __init__(self, *infos):
        self.infos = infos

    def __len__(self):
        return len(self.infos)

    def get_data_info(self, index):
        return self.infos[index]


def of_list(*infos):
    return dataset_record(Listed(*infos)).fingerprint


def files(*names, labels=None, root='/data/train/'):
    labels = range(len(names)) if labels is None else labels
    return [dict(img_path=root + name, gt_label=label) for name, label in zip(names, labels)]


def test_a_folder_that_is_moved(folder, tmp_path, monkeypatch):
    before = of_folder(folder)
    assert before.num_samples == 6 and len(before.fingerprint) == 64
    shutil.move(tmp_path / 'here', tmp_path / 'a longer name')
    moved = tmp_path / 'a longer name' / 'images'
    assert of_folder(moved) == before
    monkeypatch.chdir(moved.parent)
    assert of_folder('images') == of_folder('./images/') == before


def test_a_folder_that_is_changed(folder):
    found = [of_folder(folder).fingerprint]

    def look():
        found.append(of_folder(folder).fingerprint)

    (folder / 'dog' / '1.png').rename(folder / 'dog' / '9.png')
    look()
    (folder / 'dog' / '9.png').unlink()
    look()
    (folder / 'dog').rename(folder / 'hen')
    look()
    (folder / 'ant').mkdir()  # all labels after it are others
    Image.new('RGB', (2, 2)).save(folder / 'ant' / '0.png')
    look()
    assert len(set(found)) == 5


def test_names_labels_and_order_matter():
    first = of_list(*files('a/0.png', 'a/1.png', 'b/0.png'))
    assert first == of_list(*files('a/0.png', 'a/1.png', 'b/0.png', root='/mnt/x y/'))
    assert first == of_list(*files('a/0.png', 'a/1.png', 'b/0.png', root='s3://bucket/'))
    assert first == of_list(*files('a/0.png', 'a/1.png', 'b/0.png', root='s3://other/deep/'))
    others = {
        of_list(*files('a/0.png', 'a/1.png', 'b/9.png')),
        of_list(*files('a/0.png', 'b/0.png', 'a/1.png')),
        of_list(*files('a/0.png', 'a/1.png', 'b/0.png', labels=(0, 1, 1))),
        of_list(*files('a/0.png', 'a/1.png', 'b/0.png', labels=(0, 1, None))),
        of_list(*files('a/0.png', 'a/1.png', 'b/0.png', 'b/0.png')),
        of_list(*files('a/0.png', 'a/1.png')),
        of_list(*files('0.png', '1.png', '0.png')),
    }
    assert len(others | {first}) == 8


@pytest.mark.parametrize('names', [('0.png', '0.png'), ('ab/0.png', 'abc/0.png'), ('a', 'ab')])
def test_the_common_folder_ends_at_a_slash(names):
    """Letters that folders or files have in common are no folder."""
    assert of_list(*files(*names)) == of_list(*files(*names, root='/a/'))
    assert of_list(*files(*names)) != of_list(*files(*(name[1:] for name in names)))


def test_labels_of_several_kinds():
    def of_label(**label):
        return of_list(dict(img_path='/x.png', **label))

    same = of_label(gt_label=3)
    assert same == of_label(gt_label=np.int64(3)) == of_label(gt_label=np.array(3, np.float32))
    others = {
        of_label(gt_label=[1, 2]),
        of_label(gt_label=[2, 1]),
        of_label(gt_label=[1, 2, 3]),
        of_label(gt_score=np.array([0.25, 0.75])),
        of_label(),
    }
    assert len(others | {same}) == 6


def test_images_in_memory_are_read():
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    first = of_list(dict(img=pixels, gt_label=0))
    assert first == of_list(dict(img=pixels.copy(order='F'), gt_label=0))
    changed = pixels.copy()
    changed[1, 1, 2] += 1
    assert first != of_list(dict(img=changed, gt_label=0))
    assert first != of_list(dict(img=pixels, gt_label=1))


def test_images_in_memory_beside_files():
    pixels = np.zeros((2, 2, 3), np.uint8)
    mixed = [dict(img=pixels, gt_label=0), *files('0.png', '1.png')]
    moved = [dict(img=pixels, gt_label=0), *files('0.png', '1.png', root='/mnt/')]
    assert of_list(*mixed) == of_list(*moved)
    assert of_list(*mixed) != of_list(*mixed[1:], mixed[0])


def test_wrappers_count_as_what_they_yield(folder):
    inner = dict(type='CustomDataset', data_root=str(folder), pipeline=[])
    plain = dataset_record(DATASETS.build(dict(inner)))
    assert dataset_record(SeededDataset(dict(inner))) == plain
    once = DATASETS.build(dict(type='RepeatDataset', dataset=dict(inner), times=1))
    twice = DATASETS.build(dict(type='RepeatDataset', dataset=dict(inner), times=2))
    both = DATASETS.build(dict(type='ConcatDataset', datasets=[dict(inner), dict(inner)]))
    balanced = DATASETS.build(
        dict(type='ClassBalancedDataset', dataset=dict(inner), oversample_thr=1e-3)
    )
    assert dataset_record(once) == plain == dataset_record(balanced)
    assert dataset_record(twice) == dataset_record(both)
    assert dataset_record(twice).num_samples == 12
    assert dataset_record(twice).fingerprint != plain.fingerprint


class Silent(Dataset):
    def __len__(self):
        return 1


@pytest.mark.parametrize(
    ('dataset', 'sentence'),
    [
        (Silent(), 'Silent has no `get_data_info`, so that its samples cannot be identified'),
        (Listed(dict(gt_label=0)), 'Samples of Listed have neither `img_path` nor `img`, so that'),
        (Listed(3), 'Samples of Listed have neither `img_path` nor `img`, so that they cannot be'),
    ],
)
def test_samples_that_cannot_be_identified(dataset, sentence):
    with pytest.raises(InputError) as error:
        dataset_record(dataset)
    assert str(error.value).startswith(sentence)


PADDING = dict(pad_size_divisor=1, pad_value=0)
CROP = dict(type='RandomCrop', crop_size=16)


def digest(*transforms, padding=PADDING, **config):
    return pipeline_digest(dict(config, pipeline=list(transforms)), padding)


def test_what_changes_pixels_changes_the_digest_of_the_pipeline():
    load = dict(type='LoadImageFromFile')
    first = digest(load, CROP)
    assert first == digest(dict(load), dict(crop_size=16, type='RandomCrop'), data_root='/x')
    # How files are fetched, and other arguments of the data set, change no pixel.
    assert first == digest(dict(load, backend_args=dict(backend='petrel')), CROP, ann_file='a')
    others = {
        digest(CROP, load),
        digest(load),
        digest(load, dict(CROP, crop_size=17)),
        digest(load, CROP, padding=dict(PADDING, pad_size_divisor=32)),
        digest(load, dict(type='RandomApply', transforms=[CROP], prob=0.5)),
        digest(load, dict(type='RandomApply', transforms=[dict(CROP, crop_size=8)], prob=0.5)),
    }
    assert len(others | {first}) == 7


def test_pipelines_inside_wrappers():
    inner = dict(type='CustomDataset', pipeline=[CROP])
    other = dict(type='CustomDataset', pipeline=[])

    def of(*datasets):
        return pipeline_digest(dict(type='ConcatDataset', datasets=list(datasets)), PADDING)

    repeated = pipeline_digest(dict(type='RepeatDataset', dataset=inner, times=3), PADDING)
    assert repeated == of(inner) == pipeline_digest(inner, PADDING)
    assert len({of(inner), of(inner, inner), of(inner, other), of(other, inner)}) == 4


def test_types_that_are_classes():
    assert digest(dict(type=RandomCrop)) != digest(dict(type=CustomDataset))
    assert digest(dict(type=RandomCrop)) == digest(dict(type=RandomCrop))


# -- A quick look -------------------------------------------------------------------------------


def look(*infos):
    return sample_digest(SeededDataset(Listed(*infos)))


def test_names_labels_and_order_of_a_sample():
    first = look(*files('a/0.png', 'a/1.png', 'b/0.png'))
    assert first == look(*files('c/0.png', 'a/1.png', 'b/0.png', root='/mnt/x/'))  # moved
    boxes = [dict(img_path='0.png', instances=[dict(bbox_label=n)]) for n in (1, 2)]
    maps = [dict(img_path='0.png', seg_map_path=f'{n}.png') for n in (1, 2)]
    others = {
        look(*files('a/0.png', 'a/1.png', 'b/2.png')),
        look(*files('a/0.png', 'b/0.png', 'a/1.png')),
        look(*files('a/0.png', 'a/1.png', 'b/0.png', labels=(0, 1, 1))),
        *(look(info) for info in boxes + maps),
    }
    assert len(others | {first}) == 8
    assert sample_digest([1, 2]) == sample_digest(Silent()) == ''


def test_a_sample_is_spread_over_the_data_set(monkeypatch):
    monkeypatch.setattr(fingerprint, '_NUM_SAMPLES', 4)
    seen = []

    class Watched(Listed):
        def get_data_info(self, index):
            seen.append(index)
            return super().get_data_info(index)

    sample_digest(Watched(*files(*(f'{n}.png' for n in range(11)))))
    assert seen == [0, 2, 5, 8]
