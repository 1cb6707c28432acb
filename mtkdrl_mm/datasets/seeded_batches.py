# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Batches whose augmentations depend on their place in the training alone."""

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from mtkdrl_mm.registry import DATA_SAMPLERS
from mtkdrl_mm.utils.seeding import seeded


class PlacedBatch(list[int]):
    """Indices of a batch that know their place: (seed, rank, epoch, number)."""

    place: tuple[int, ...] = ()


@DATA_SAMPLERS.register_module()
class SeededBatchSampler(BatchSampler):
    """Tells every batch its place in the training, and can start in mid-epoch.

    Works with data workers of any kind and number, persistent or not: the
    place travels to the worker with the indices, where :func:`seed_batches`
    makes the data set seed its augmentations from it.

    Args:
        sampler (Sampler): Yields indices.
        batch_size (int): Images per batch.
        drop_last (bool): Whether a smaller last batch is left out. Defaults
            to False.
        inner (dict, optional): Config of another batch sampler whose batches
            are used, such as mmdet's ``AspectRatioBatchSampler``. Defaults to
            None: consecutive indices.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        drop_last: bool = False,
        inner: 'dict[str, Any] | None' = None,
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.batches: BatchSampler = (
            BatchSampler(sampler, batch_size, drop_last)
            if inner is None
            else MMENGINE_DATA_SAMPLERS.build(
                inner, default_args=dict(sampler=sampler, batch_size=batch_size)
            )
        )
        self.seed = 0
        self.epoch = 0
        self.start = 0

    def set_position(self, seed: int, epoch: int, start: int = 0) -> None:
        """Say where the training is.

        Args:
            seed (int): The run's seed, the same on all processes.
            epoch (int): Number of the epoch about to start.
            start (int): Batches of it that were done before. Defaults to 0.
        """
        self.seed, self.epoch, self.start = seed, epoch, start

    def __iter__(self) -> Iterator[list[int]]:
        for number, indices in enumerate(self.batches):
            if number >= self.start:
                batch = PlacedBatch(indices)
                batch.place = (self.seed, get_rank(), self.epoch, number)
                yield batch

    def __len__(self) -> int:
        return len(self.batches)


class _SeededFetch:
    """Fetches the samples of a batch, seeding the augmentations from its place."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __call__(self, indices: Sequence[int]) -> list[Any]:
        place = getattr(indices, 'place', ())
        if not place:
            return [self.dataset[index] for index in indices]
        # Restored after: without workers this is the process that trains.
        with seeded(*place):
            return [self.dataset[index] for index in indices]


def seed_batches(dataloader: DataLoader) -> None:
    """Make a loader's data set seed its augmentations from each batch's place.

    Args:
        dataloader (DataLoader): With a :class:`SeededBatchSampler`.
    """
    # torch asks a data set that has `__getitems__` for a batch as a whole.
    setattr(dataloader.dataset, '__getitems__', _SeededFetch(dataloader.dataset))  # noqa: B010
