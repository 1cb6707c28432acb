# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Runs teachers on chosen views of chosen samples."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mtkdrl_mm.datasets import SampleAnnotator, SeededDataset, SeededIndex
from mtkdrl_mm.models import MultiTeacherDistiller, TeacherPool
from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.teacher_outputs import SAMPLE_FIELD
from mtkdrl_mm.utils import InputError

from .data_workers import shield_workers


class ComputedBatch:
    """Outputs of some teachers on a batch, with its keys.

    Attributes:
        samples (list[int]): Numbers of the samples.
        views (list[int]): Numbers of their views.
        crc32 (list[int]): Checksums of their pixels.
        outputs (dict[str, NetworkOutput]): By teacher.
        labels (list): The samples' labels.
    """

    def __init__(self, carried: Sequence[Any], outputs: dict[str, NetworkOutput], labels: list):
        self.samples = [one.sample for one in carried]
        self.views = [one.view for one in carried]
        self.crc32 = [one.crc32 for one in carried]
        self.outputs = outputs
        self.labels = labels


class TeacherRunner:
    """Runs the teachers of a pool on chosen views of chosen samples.

    Args:
        model (MultiTeacherDistiller): The model, on its device.
        pool (TeacherPool): Its teachers.
        dataset (SeededDataset): The data, connected to the views by
            :func:`connect_teacher_outputs`.
        loader (DataLoader): Its loader, for batch size, workers and collation.
        seed (int): Seed of the views.
        names (Sequence[str], optional): The teachers that run. Defaults to None:
            all.
    """

    def __init__(
        self,
        model: MultiTeacherDistiller,
        pool: TeacherPool,
        dataset: SeededDataset,
        loader: DataLoader,
        seed: int,
        names: Sequence[str] | None = None,
    ) -> None:
        self.names = tuple(pool.names if names is None else names)
        self.model, self.pool, self.dataset, self.loader = model, pool, dataset, loader
        self.seed = seed
        self.batch_size: int = loader.batch_sampler.batch_size  # type: ignore[union-attr]
        self.device = next(model.parameters()).device
        pool.batch_size = self.batch_size

    def compute(
        self, keys: Iterable[tuple[int, int]], names: Sequence[str] | None = None
    ) -> Iterator[ComputedBatch]:
        """Run teachers on samples.

        Args:
            keys (Iterable[tuple[int, int]]): Samples and views. It is read while
                the data workers load.
            names (Sequence[str], optional): Some of the teachers. Defaults to
                None: all that run.

        Yields:
            ComputedBatch: In the order of the keys.

        Raises:
            InputError: If images have different sizes.
        """
        names = self.names if names is None else names
        loader = self._loader(keys)
        with self._annotated():
            for batch in loader:
                _check_sizes(batch)
                with torch.no_grad():
                    data = self.model.data_preprocessor(batch, True)
                    inputs = self.model.format_inputs(data['inputs'])
                    samples = data['data_samples']
                    outputs = self.pool(inputs, samples, names) if names else []
                order = [name for name in self.pool.names if name in names]
                yield ComputedBatch(
                    [sample.get(SAMPLE_FIELD) for sample in samples],
                    dict(zip(order, outputs)),
                    [sample.get('gt_label') for sample in samples],
                )

    def first_outputs(self) -> dict[str, NetworkOutput]:
        """Outputs on the first images, after the choice of the teachers' modes."""
        count = min(self.batch_size, len(self.dataset))
        keys = [(sample, 0) for sample in range(count)]
        with self._annotated(), torch.no_grad():
            data = next(iter(self._loader(keys)))
            inputs = self.model.format_inputs(self.model.data_preprocessor(data, True)['inputs'])
            self.pool.prepare(inputs)
            return dict(zip(self.pool.names, self.pool(inputs)))

    def seconds_per_image(self, num_batches: int = 3) -> float:
        """Time the loader and the teachers on a few batches, after a first one.

        Args:
            num_batches (int): Number of timed batches. Defaults to 3.
        """
        total = min(len(self.dataset), (num_batches + 1) * self.batch_size)
        times, images = [time.perf_counter()], [0]
        for batch in self.compute((sample, 0) for sample in range(total)):
            if self.device.type == 'cuda':
                torch.cuda.synchronize()
            times.append(time.perf_counter())
            images.append(len(batch.samples))
        first = 1 if len(times) > 2 else 0  # with the start of the data workers
        return (times[-1] - times[first]) / sum(images[first + 1 :])

    def _loader(self, keys: Iterable[tuple[int, int]]) -> DataLoader:
        loader = DataLoader(
            self.dataset,
            batch_sampler=_Batches(keys, self.seed, self.batch_size),
            num_workers=self.loader.num_workers,
            collate_fn=self.loader.collate_fn,
            pin_memory=self.loader.pin_memory,
        )
        if loader.num_workers:
            shield_workers(loader)
        return loader

    @contextmanager
    def _annotated(self) -> Iterator[None]:
        """Have the data set yield keys and checksums, and no stored rows."""
        before = self.dataset.annotator
        self.dataset.annotator = SampleAnnotator(always_checksum=True)
        try:
            yield
        finally:
            self.dataset.annotator = before


class _Batches:
    """Batches of seeded indices, formed while they are read."""

    def __init__(self, keys: Iterable[tuple[int, int]], seed: int, batch_size: int) -> None:
        self.keys, self.seed, self.batch_size = keys, seed, batch_size

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        batch = []
        for sample, view in self.keys:
            batch.append(SeededIndex(sample, self.seed, view))
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch


def _check_sizes(batch: dict[str, Any]) -> None:
    """Refuse images of different sizes, whose padding would depend on the batch."""
    inputs = batch['inputs']
    if isinstance(inputs, Tensor):
        return  # stacked by the loader
    shapes = sorted({tuple(image.shape[-2:]) for image in inputs})
    if len(shapes) > 1:
        raise InputError(
            f'The data pipeline yields images of different sizes ({shapes[0]} and {shapes[1]}), '
            'which are padded to the largest one of a batch, so that what teachers make of them '
            'cannot be stored. Add a crop or a resize to one size to the pipeline.'
        )
