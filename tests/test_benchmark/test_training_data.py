# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Images for a benchmark, and configs that train on them."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mtkdrl_mm.benchmark import count_classes, use_images, write_images
from mtkdrl_mm.utils import InputError

LOAD = dict(type='LoadImageFromFile')
CROP = dict(type='RandomResizedCrop', scale=224)


def test_written_images(tmp_path):
    write_images(str(tmp_path), 7, num_classes=3, side=40)
    files = sorted(tmp_path.glob('*/*.jpg'))
    assert [len(list(folder.iterdir())) for folder in sorted(tmp_path.iterdir())] == [3, 2, 2]
    pixels = [np.asarray(Image.open(path)) for path in files]
    assert all(image.shape == (40, 40, 3) and image.std() > 20 for image in pixels)
    assert not np.array_equal(pixels[0], pixels[1])
    # A photograph takes 0.15 to 0.6 bytes per pixel.
    sizes = [path.stat().st_size / 40**2 for path in files]
    assert 0.15 < np.mean(sizes) < 1.5
    assert count_classes(str(tmp_path)) == 3


def test_too_few_images(tmp_path):
    with pytest.raises(InputError, match='2 images are too few for 3 classes'):
        write_images(str(tmp_path), 2, num_classes=3, side=8)


def test_folders_that_are_of_no_use(tmp_path):
    with pytest.raises(InputError, match='nowhere" does not exist'):
        count_classes(str(tmp_path / 'nowhere'))
    (tmp_path / 'image.jpg').touch()
    with pytest.raises(InputError, match='has no subfolders: give one per class'):
        count_classes(str(tmp_path))


def config(dataset, **loader):
    return Config(
        dict(
            default_scope='mmpretrain',
            train_dataloader=dict(
                batch_size=256,
                num_workers=3,
                persistent_workers=True,
                dataset=dataset,
                sampler=dict(type='DefaultSampler', shuffle=True, seed=4),
                **loader,
            ),
        )
    )


@pytest.mark.parametrize('wrapper', [None, 'RepeatDataset', 'ConcatDataset'])
def test_the_pipeline_stays_and_the_rest_is_replaced(tmp_path, wrapper):
    choice = dict(
        type='RandomChoice', transforms=[[dict(type='RandomCrop', crop_size=(224, 224))], [CROP]]
    )
    dataset = dict(type='ImageNet', data_root='nowhere', split='train', pipeline=[LOAD, choice])
    if wrapper == 'RepeatDataset':
        dataset = dict(type=wrapper, times=3, dataset=dataset)
    elif wrapper == 'ConcatDataset':
        dataset = dict(type=wrapper, datasets=[dataset])
    cfg = config(dataset, batch_sampler=dict(type='AspectRatioBatchSampler'))
    use_images(cfg, str(tmp_path), batch_size=8, input_size=48)
    loader = cfg.train_dataloader.to_dict()
    crops = [dict(type='RandomCrop', crop_size=48)], [dict(type='RandomResizedCrop', scale=48)]
    assert loader['dataset'] == dict(
        type='mmpretrain.CustomDataset',
        data_root=str(tmp_path),
        data_prefix='',
        pipeline=[LOAD, dict(type='RandomChoice', transforms=list(crops))],
        indices=None,
    )
    assert loader['sampler'] == dict(type='InfiniteSampler', shuffle=True)
    assert loader['batch_size'] == 8 and loader['num_workers'] == 3
    assert loader['persistent_workers'] is False and 'batch_sampler' not in loader
    assert loader['collate_fn'] == dict(type='default_collate')


def test_another_number_of_workers(tmp_path):
    for workers in (0, 2):
        cfg = config(dict(type='ImageNet', pipeline=[LOAD, CROP]))
        use_images(cfg, str(tmp_path), batch_size=8, input_size=48, workers=workers)
        assert cfg.train_dataloader.num_workers == workers
        # torch refuses the setting without workers.
        assert ('persistent_workers' in cfg.train_dataloader) == (workers > 0)


def test_a_pipeline_without_a_size(tmp_path):
    cfg = config(dict(type='ImageNet', pipeline=[LOAD, dict(type='RandomFlip', prob=0.5)]))
    with pytest.raises(InputError, match='neither crops nor resizes images to a size'):
        use_images(cfg, str(tmp_path), batch_size=8, input_size=48)
    cfg = config(dict(type='ImageNet'))
    with pytest.raises(InputError, match='has no `pipeline`'):
        use_images(cfg, str(Path()), batch_size=8, input_size=48)
