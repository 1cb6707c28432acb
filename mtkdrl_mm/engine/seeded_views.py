# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The views of a training's samples, and what else all uses of stored outputs share."""

import logging
from collections.abc import Sequence

from mmengine.logging import print_log
from torch.utils.data import DataLoader

from mtkdrl_mm.datasets import KeyedBlend, SeededBatchSampler, SeededDataset, pipeline_digest
from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.teacher_outputs import (
    Manifest,
    TeacherOutputsSettings,
    ViewRecord,
    inputs_folder,
)
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.seeding import SEED_SCHEME

# What a training does about other versions of libraries.
WORKERS_CHECK = 'The pixels are compared with the stored checksums.'


def seeded_parts(loader: DataLoader) -> tuple[SeededDataset, SeededBatchSampler]:
    """The parts of a training loader that know samples and views.

    Args:
        loader (DataLoader): The training data.

    Raises:
        InputError: If it was not built from a config by a resumable loop.
    """
    dataset, sampler = loader.dataset, loader.batch_sampler
    if not isinstance(dataset, SeededDataset) or not isinstance(sampler, SeededBatchSampler):
        raise InputError(
            '`model.teacher_outputs` needs training data whose augmentations follow from sample '
            'and view: give `train_dataloader` as a config, and use mtkdrl_mm.ResumableRunner.'
        )
    return dataset, sampler


def describe_views(
    model: MultiTeacherDistiller, dataset: SeededDataset, seed: int, num_views: int
) -> ViewRecord:
    """Describe how the views of the samples come about; mixup and cutmix become keyed.

    Args:
        model (MultiTeacherDistiller): Its preprocessor's batch augmentations
            are moved to the data set.
        dataset (SeededDataset): The data set; changed in place.
        seed (int): Seed of the augmentations.
        num_views (int): Number of views.

    Returns:
        ViewRecord: The description.
    """
    _move_blends(model, dataset)
    preprocessor = model.data_preprocessor
    padding = {
        name: getattr(preprocessor, name, None) for name in ('pad_size_divisor', 'pad_value')
    }
    return ViewRecord(
        num_views=num_views,
        seed=seed,
        scheme=SEED_SCHEME,
        pipeline=pipeline_digest(dataset.config or {}, padding),
        blends=None if dataset.blend is None else dataset.blend.describe(),
    )


def set_views(
    model: MultiTeacherDistiller,
    dataset: SeededDataset,
    sampler: SeededBatchSampler,
    seed: int,
    num_views: int,
) -> None:
    """Have a training repeat a number of views; mixup and cutmix become keyed.

    Args:
        model (MultiTeacherDistiller): Its preprocessor's batch augmentations
            are moved to the data set.
        dataset (SeededDataset): The data set; changed in place.
        sampler (SeededBatchSampler): The sampler; changed in place.
        seed (int): Seed of the augmentations.
        num_views (int): Number of views.
    """
    _move_blends(model, dataset)
    sampler.view_seed, sampler.num_views = seed, num_views


def view_seed(settings: TeacherOutputsSettings) -> int:
    """Determine the seed of the augmentations.

    Args:
        settings (TeacherOutputsSettings): The settings.

    Returns:
        int: The seed of the settings, else that of their store, else 0.

    Raises:
        InputError: If the store's manifest is damaged.
    """
    if settings.seed is not None:
        return settings.seed
    stored = None if settings.root is None else Manifest.find(inputs_folder(settings.root))
    return 0 if stored is None else stored.views.seed


def restart_workers(loader: DataLoader) -> None:
    """End persistent workers, which have copies of the data set as it was before.

    Args:
        loader (DataLoader): The training data; its next pass starts new workers.
    """
    # torch has no public way: a loader with persistent workers keeps its iterator, and with it
    # the workers, in this attribute, until it is itself deleted.
    if getattr(loader, '_iterator', None) is not None:
        loader._iterator = None


def report_warnings(warnings: Sequence[str], checked: str) -> None:
    """Log in one line that libraries have other versions than those of a store.

    Args:
        warnings (Sequence[str]): A sentence about each.
        checked (str): A sentence on what is done about it.
    """
    if warnings:
        rest = f' And {len(warnings) - 3} more.' if len(warnings) > 3 else ''
        print_log(f'{" ".join(warnings[:3])}{rest} {checked}', 'current', logging.WARNING)


def _move_blends(model: MultiTeacherDistiller, dataset: SeededDataset) -> None:
    """Have the data set blend images, and not the data preprocessor."""
    augments = model.take_batch_augments()
    if augments is not None and not dataset.never_blended:
        dataset.blend = KeyedBlend(augments, model.teachers.spec.num_classes)
