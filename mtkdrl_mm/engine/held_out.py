# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The images from which the agent learns, apart from the training data."""

from copy import deepcopy
from typing import Any

from mmengine.config import Config
from mmengine.dataset import ClassBalancedDataset, DefaultSampler, RepeatDataset
from mmpretrain.datasets.samplers import RepeatAugSampler
from torch.utils.data import DataLoader

from mtkdrl_mm.datasets import SeededBatchSampler, missing_files
from mtkdrl_mm.utils import InputError

from .build_dataloader import build_dataloader, check_passes_end, seeded_dataloader
from .seeded_views import seeded_parts


def build_held_out(cfg: Config, seed: int | None) -> DataLoader:
    """Build the loader of ``held_out_dataloader``.

    Args:
        cfg (Config): The training's config. The loader is given like
            ``train_dataloader``; without a sampler, all images come in their
            order.
        seed (int, optional): The run's seed.

    Returns:
        DataLoader: With seeded parts, see :func:`seeded_parts`.

    Raises:
        InputError: If the config has none, an image does not exist, images have
            no labels, or the sampler never ends.
    """
    dataloader = cfg.get('held_out_dataloader')
    if dataloader is None:
        raise InputError(
            "AgentHook has `experience='held_out'`, but the config has no `held_out_dataloader`: "
            'give one, like `train_dataloader`, with labelled images that no teacher was trained '
            'on.'
        )
    dataloader = deepcopy(dataloader)
    dataloader.setdefault('sampler', dict(type='DefaultSampler', shuffle=False))
    loader = build_dataloader(seeded_dataloader(dataloader), seed)
    check_passes_end(loader, 'held_out_dataloader')
    parts = seeded_parts(loader)
    _leave_out_copies(parts[1])
    dataset: Any = parts[0]
    # Their labels are right, one each; without a store, nothing blends them either.
    dataset.never_blended = True
    first = dataset.get_data_info(0) if hasattr(dataset.dataset, 'get_data_info') else None
    if first is not None and 'gt_label' not in first:
        raise InputError(
            'The images of `held_out_dataloader` have no labels, which the agent learns from: give '
            'class folders or an `ann_file`, and leave out `with_label=False`.'
        )
    # The first of them is loaded when the student's first epoch is over.
    if missing := missing_files(dataset):
        raise InputError(
            f'Of the {len(dataset)} images of `held_out_dataloader`, {len(missing)} do not exist: '
            f'"{missing[0]}"{", ..." if missing[1:] else ""}. Check `data_root`, `data_prefix` '
            'and `ann_file` of its data set, or leave them out: --cfg-options '
            'skip_damaged_images=True'
        )
    return loader


def _leave_out_copies(batch_sampler: SeededBatchSampler) -> None:
    """Let processes have different numbers of images, rather than some images twice."""
    sampler = batch_sampler.sampler
    if isinstance(sampler, DefaultSampler) and len(sampler.dataset) >= sampler.world_size:
        batch_sampler.sampler = DefaultSampler(
            sampler.dataset, sampler.shuffle, sampler.seed, round_up=False
        )


def check_each_once(loader: DataLoader) -> None:
    """Refuse data that show an image several times per pass.

    A probe that is judged on an image must not have been fitted to a copy of it.

    Args:
        loader (DataLoader): Of :func:`build_held_out`.

    Raises:
        InputError: If data set or sampler repeat images.
    """
    dataset, batch_sampler = seeded_parts(loader)
    for part in (dataset.dataset, batch_sampler.sampler):
        if isinstance(part, (RepeatDataset, ClassBalancedDataset, RepeatAugSampler)):
            raise InputError(
                f'`held_out_dataloader` has a {type(part).__name__}, which repeats images, but '
                "`feature_weights='probes'` of the weighting needs each of them once: leave it "
                "out, or set `feature_weights='agent'`."
            )
