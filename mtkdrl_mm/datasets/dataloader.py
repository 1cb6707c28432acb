# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Check of data loaders after they are built."""

import logging
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import BatchSampler, DataLoader

from mtkdrl_mm.utils.errors import InputError

from .damaged_images import name_damaged_images
from .seeded_batch_sampler import SeededBatchSampler


def check_dataloader(loader: DataLoader, model: nn.Module | None = None) -> None:
    """Check a data loader after it is built, before its length is used.

    - Errors of images that cannot be read name the file, see
      :func:`name_damaged_images`.
    - A training loader must have at least one batch.
    - If the last batch of an epoch has one image per process, and the model has
      BatchNorm, which cannot be trained on one value, the batch is left out,
      with a warning.

    Args:
        loader (DataLoader): The loader; changed in place.
        model (nn.Module, optional): The model that uses it. Defaults to None:
            batches are not checked.

    Raises:
        InputError: If an epoch would have no step.
    """
    name_damaged_images(loader.dataset)
    batches = _batch_sampler(loader)
    if model is None or batches is None or not getattr(batches.sampler, 'shuffle', False):
        return
    if isinstance(batches.sampler, InfiniteSampler):
        return  # it has no last batch
    size, world_size = batches.batch_size, get_world_size()
    per_process = len(batches.sampler)  # type: ignore[arg-type]
    processes = f' x {world_size} processes' if world_size > 1 else ''
    if len(batches) == 0:
        total = len(loader.dataset)  # type: ignore[arg-type]
        raise InputError(
            f'An epoch would have no step: the training set has {total} images, fewer than a '
            f'batch of {size}{processes}, and `drop_last` leaves out incomplete batches. Set '
            f'train_dataloader.batch_size to {max(total // world_size, 1)} or less, or '
            'train_dataloader.drop_last to False.'
        )
    if size == 1 or batches.drop_last or not _has_batch_norm(model, world_size):
        return
    if isinstance(batches, SeededBatchSampler):
        # Also for an epoch that is resumed with another batch size and ends in a single image.
        batches.skip_single = True
    if per_process % size != 1:
        return
    if per_process == 1:
        raise InputError(
            'The training set has one image per process, and BatchNorm cannot be trained on '
            'batches of one image. Add images, or use fewer processes.'
        )
    print_log(
        f'The last of {len(batches)} batches would have one image per process, on which BatchNorm '
        f'cannot be trained: it is left out, and an epoch has {per_process - 1} images '
        f'{"per process " if world_size > 1 else ""}in batches of {size}. Another '
        'train_dataloader.batch_size would use them all.',
        'current',
        logging.WARNING,
    )
    if not isinstance(batches, SeededBatchSampler):
        batches.drop_last = True


def _batch_sampler(loader: DataLoader) -> BatchSampler | None:
    """The loader's batch sampler if it forms consecutive batches; None for other kinds."""
    sampler: Any = loader.batch_sampler
    if isinstance(sampler, SeededBatchSampler):
        return sampler if sampler.base_sampler is None else None
    # A subclass may group images by shape, and handles the last batch itself.
    return sampler if type(sampler) is BatchSampler else None


def _has_batch_norm(model: nn.Module, world_size: int) -> bool:
    return any(
        isinstance(module, _BatchNorm)
        and not (isinstance(module, nn.SyncBatchNorm) and world_size > 1)
        for module in model.modules()
    )
