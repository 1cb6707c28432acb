# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Building of data loaders: mmengine's, with checks and workers that survive signals."""

from copy import deepcopy
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mtkdrl_mm.datasets import check_dataloader
from mtkdrl_mm.utils import InputError

from .data_workers import shield_workers


def seeded_dataloader(dataloader: dict[str, Any]) -> dict[str, Any]:
    """Change the config of a training loader so that samples know their views.

    Args:
        dataloader (dict): The config, which is not changed.

    Returns:
        dict: With the data set in a ``SeededDataset``, and the batch sampler in
        a ``SeededBatchSampler``.
    """
    dataloader = deepcopy(dataloader)
    dataloader['dataset'] = dict(type='mtkdrl_mm.SeededDataset', dataset=dataloader['dataset'])
    dataloader['batch_sampler'] = dict(
        type='mtkdrl_mm.SeededBatchSampler',
        drop_last=dataloader.pop('drop_last', False),
        base_sampler=dataloader.pop('batch_sampler', None),
    )
    return dataloader


def build_dataloader(
    dataloader: DataLoader | dict[str, Any],
    seed: int | None = None,
    diff_rank_seed: bool = False,
    model: nn.Module | None = None,
) -> DataLoader:
    """Build a data loader as mmengine does, and check it.

    Args:
        dataloader (DataLoader | dict): A loader, which is returned unchanged, or
            a config.
        seed (int, optional): Seed of sampler and workers. Defaults to None.
        diff_rank_seed (bool): Whether the samplers of the processes have
            different seeds. Defaults to False.
        model (nn.Module, optional): The model that uses it, see
            :func:`mtkdrl_mm.datasets.check_dataloader`. Defaults to None.

    Returns:
        DataLoader: The loader.

    Raises:
        InputError: If an epoch would have no step.
    """
    loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
    if isinstance(dataloader, dict):
        check_dataloader(loader, model)
        shield_workers(loader)
    return loader


def check_passes_end(loader: DataLoader, key: str, shuffle: bool = False) -> None:
    """Check that a pass through a loader, such as a validation or an epoch, comes to an end.

    Args:
        loader (DataLoader): The loader.
        key (str): Its key in the config, for the message.
        shuffle (bool): What the message proposes. Defaults to False.

    Raises:
        InputError: If its sampler never ends.
    """
    sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
    if isinstance(sampler, InfiniteSampler):
        raise InputError(
            f'{key}.sampler: {type(sampler).__name__} never ends, but all images are used once in '
            f"a pass. Set it to dict(type='DefaultSampler', shuffle={shuffle})."
        )
