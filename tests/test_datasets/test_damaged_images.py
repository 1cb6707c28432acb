# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Damaged images are named, or left out."""

import cv2
import numpy as np
import pytest
from mmengine.dataset import RepeatDataset
from mmengine.registry import DATASETS
from mmpretrain.datasets import CustomDataset
from torch.utils.data import DataLoader

from mtkdrl_mm.datasets import built_datasets, image_fault, name_damaged_images
from mtkdrl_mm.utils import InputError

DAMAGES = {
    'empty': (lambda content: b'', 'it is empty'),
    'cut': (lambda content: content[: len(content) // 2], 'it is cut off, damaged, or no image'),
    'page': (lambda content: b'<html></html>', 'it is cut off, damaged, or no image'),
}


@pytest.fixture
def folder(tmp_path):
    """Six images of two classes."""
    for name in ('cat', 'dog'):
        (tmp_path / name).mkdir()
        for index in range(3):
            image = np.random.randint(0, 255, (16, 16, 3), np.uint8)
            cv2.imwrite(str(tmp_path / name / f'{index}.jpg'), image)
    return tmp_path


def config(folder):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    return dict(type='CustomDataset', data_root=str(folder), pipeline=pipeline)


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_image_is_named(folder, damage, workers):
    path = folder / 'dog' / '1.jpg'
    change, fault = DAMAGES[damage]
    path.write_bytes(change(path.read_bytes()))
    assert image_fault(str(path)) == fault
    dataset = RepeatDataset(DATASETS.build(config(folder)), times=2)
    name_damaged_images(dataset)
    with pytest.raises(InputError) as error:
        list(DataLoader(dataset, batch_size=None, num_workers=workers))
    assert (
        f'The image "{path}" cannot be read: {fault}. Replace it, or leave out all damaged images: '
        '--cfg-options skip_damaged_images=True'
    ) in str(error.value)


def test_a_missing_image_is_named(folder):
    dataset = DATASETS.build(config(folder))
    name_damaged_images(dataset)
    (folder / 'cat' / '0.jpg').unlink()
    with pytest.raises(InputError, match=r'does not exist: ".*cat/0\.jpg"\. Check `data_root`'):
        dataset[0]


def test_other_errors_stay_what_they_are(folder):
    dataset = DATASETS.build(config(folder))
    name_damaged_images(dataset)
    dataset.pipeline.transforms[0].inner.color_type = 'no such type'
    with pytest.raises(KeyError, match='no such type'):
        dataset[0]


def test_damaged_images_are_left_out(folder):
    paths = [folder / 'cat' / '2.jpg', folder / 'dog' / '0.jpg']
    for path in paths:
        path.write_bytes(b'')
    wrapper = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(type='mtkdrl_mm.IntactImages', dataset=config(folder)),
    )
    dataset = DATASETS.build(wrapper)
    assert len(dataset) == 8
    assert [dataset.get_data_info(i)['gt_label'] for i in range(4)] == [0, 0, 1, 1]
    (part,) = built_datasets(dataset)
    assert isinstance(part, CustomDataset) and part.left_out == [str(path) for path in paths]
    assert len(list(DataLoader(dataset, batch_size=None))) == 8


def test_no_image_is_left(folder):
    for path in folder.glob('*/*.jpg'):
        path.write_bytes(b'')
    with pytest.raises(InputError, match=r'None of the 6 images can be read, for example .*0\.jpg'):
        DATASETS.build(dict(type='mtkdrl_mm.IntactImages', dataset=config(folder)))
