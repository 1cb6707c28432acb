# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Images for a benchmark, and the config that trains on them."""

import os
import os.path as osp
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict
from PIL import Image

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.adapt_config import set_dataloader_defaults


def write_images(folder: str, count: int, num_classes: int, side: int) -> None:
    """Write JPEG files, in one folder per class.

    They show large and small random shapes, so that they take about as many
    bytes as photographs, and as long to be decoded.

    Args:
        folder (str): An existing folder.
        count (int): Number of images; at least one per class.
        num_classes (int): Number of classes.
        side (int): Height and width in pixels.

    Raises:
        InputError: If there are fewer images than classes.
    """
    if count < num_classes:
        raise InputError(
            f'{count} images are too few for {num_classes} classes: write at least one per class.'
        )
    draw = np.random.default_rng(0)
    for number in range(count):
        pixels = np.zeros((side, side, 3))
        for cells in (4, 16, 64):
            noise = draw.integers(0, 256, (min(cells, side), min(cells, side), 3), dtype=np.uint8)
            image = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
            pixels += np.asarray(image) * (2.0 / cells)
        pixels *= 255 / pixels.max()
        path = osp.join(folder, f'class_{number % num_classes:05d}', f'{number:07d}.jpg')
        os.makedirs(osp.dirname(path), exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)


def count_classes(folder: str) -> int:
    """Number of classes of an image folder: of its subfolders.

    Args:
        folder (str): The folder.

    Raises:
        InputError: If there is no such folder, or it has no subfolders.
    """
    if not osp.isdir(folder):
        raise InputError(f'The image folder "{folder}" does not exist.')
    classes = [entry for entry in os.scandir(folder) if entry.is_dir()]
    if not classes:
        raise InputError(f'The image folder "{folder}" has no subfolders: give one per class.')
    return len(classes)


def use_images(
    cfg: Config,
    folder: str,
    batch_size: int,
    input_size: int,
    workers: int | None = None,
    count: int | None = None,
) -> None:
    """Have a config train on an image folder without end, with its own pipeline.

    Args:
        cfg (Config): With ``train_dataloader``; changed in place.
        folder (str): With one subfolder per class.
        batch_size (int): Images per batch.
        input_size (int): Side to which the pipeline crops or resizes.
        workers (int, optional): Number of data workers. Defaults to None: that
            of the config.
        count (int, optional): Use only the first images. Defaults to None: all.

    Raises:
        InputError: If the pipeline does not crop or resize to a size.
    """
    pipeline = _pipeline(cfg.train_dataloader.dataset)
    sized = False
    for transform, key in _sizes(pipeline):
        transform[key] = input_size
        sized = True
    if not sized:
        raise InputError(
            'The training pipeline neither crops nor resizes images to a size (`scale` or '
            f'`crop_size` of a transform), and cannot be timed at {input_size} pixels. Add one.'
        )
    loader = cfg.train_dataloader
    loader.batch_size = batch_size
    loader.dataset = ConfigDict(
        type='mmpretrain.CustomDataset',
        data_root=folder,
        data_prefix='',
        pipeline=pipeline,
        indices=count,
    )
    loader.sampler = ConfigDict(type='InfiniteSampler', shuffle=True)
    if workers is not None:
        loader.num_workers = workers
    loader.persistent_workers = False  # they live as long as they are timed
    loader.pop('batch_sampler', None)
    set_dataloader_defaults(cfg, no_pin_memory=False)


def _pipeline(dataset: ConfigDict) -> list[ConfigDict]:
    """The pipeline of the innermost data set."""
    while 'pipeline' not in dataset:
        inner = dataset.get('dataset') or (dataset.get('datasets') or [None])[0]
        if inner is None:
            raise InputError('The data set in `train_dataloader` has no `pipeline`.')
        dataset = inner
    return dataset.pipeline


def _sizes(transforms: Any) -> Iterator[tuple[Any, str]]:
    """All sizes in a pipeline, also of nested transforms: the transform and the key."""
    for transform in transforms:
        for key in ('scale', 'crop_size'):
            value = transform.get(key)
            sides = value if isinstance(value, (list, tuple)) else (value,)
            if value and all(isinstance(side, int) for side in sides):
                yield transform, key
        for nested in transform.get('transforms') or ():
            yield from _sizes(nested if isinstance(nested, (list, tuple)) else [nested])
