# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Connects the training data of a distillation to a store of teacher outputs."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from mmengine.dist import all_gather_object, barrier, get_rank, get_world_size
from mmengine.logging import print_log
from torch.utils.data import DataLoader

from mtkdrl_mm.datasets import (
    KeyedBlend,
    SampleAnnotator,
    SeededBatchSampler,
    SeededDataset,
    dataset_record,
    pipeline_digest,
)
from mtkdrl_mm.models import MultiTeacherDistiller, TeacherPool
from mtkdrl_mm.models.teachers.stored_pool import StoredTeacherPool
from mtkdrl_mm.models.teachers.teacher_record import complete_record, teacher_record
from mtkdrl_mm.teacher_outputs import (
    DatasetRecord,
    Manifest,
    StoreReader,
    TeacherOutputsSettings,
    ViewJournal,
    ViewRecord,
    check_free_space,
    inputs_folder,
)
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.seeding import SEED_SCHEME

from .output_writer import OutputWriter

_WORKERS_CHECK = 'The pixels are compared with the stored checksums.'


def connect_teacher_outputs(
    model: MultiTeacherDistiller, loader: DataLoader
) -> 'WriteThrough | None':
    """Connect training data and model to the store of ``model.teacher_outputs``.

    The views of the samples, mixup and cutmix become functions of (seed, sample,
    view), and the data workers read stored rows. It is called before the first
    iteration, once the weights are loaded.

    Args:
        model (MultiTeacherDistiller): The model, on its device.
        loader (DataLoader): The training data, built by a resumable loop.

    Returns:
        WriteThrough | None: What fills the store, if it is to be written.

    Raises:
        InputError: If the store does not belong to this training or is not
            complete, or the data cannot be identified.
    """
    settings = model.teacher_outputs
    if settings is None or not model.has_teachers:
        return None
    dataset, sampler = seeded_parts(loader)
    if settings.root is None:
        assert settings.views is not None
        _set_views(model, dataset, sampler, settings.seed or 0, settings.views)
        model.teachers.batch_size = sampler.batch_size
        _restart_workers(loader)
        return None
    if settings.write:
        return WriteThrough(model, loader, settings)
    _connect_reader(model, dataset, sampler, settings)
    _restart_workers(loader)
    return None


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


def _move_blends(model: MultiTeacherDistiller, dataset: SeededDataset) -> None:
    preprocessor: Any = model.data_preprocessor
    if getattr(preprocessor, 'batch_augments', None) is not None:
        # Kept for a later training of the same model, on another data set.
        preprocessor.keyed_augments = preprocessor.batch_augments
        preprocessor.batch_augments = None
    augments = getattr(preprocessor, 'keyed_augments', None)
    if augments is not None:
        dataset.blend = KeyedBlend(augments, model.teachers.spec.num_classes)


def _seed_of(settings: TeacherOutputsSettings) -> int:
    """The seed of the augmentations: that of the settings, else of the store, else 0."""
    if settings.seed is not None:
        return settings.seed
    stored = None if settings.root is None else Manifest.find(inputs_folder(settings.root))
    return 0 if stored is None else stored.views.seed


def _set_views(
    model: MultiTeacherDistiller,
    dataset: SeededDataset,
    sampler: SeededBatchSampler,
    seed: int,
    num_views: int,
) -> None:
    _move_blends(model, dataset)
    sampler.view_seed, sampler.num_views = seed, num_views


def _restart_workers(loader: DataLoader) -> None:
    """End persistent workers, which have copies of the data set as it was before."""
    if getattr(loader, '_iterator', None) is not None:
        loader._iterator = None


def _connect_reader(
    model: MultiTeacherDistiller,
    dataset: SeededDataset,
    sampler: SeededBatchSampler,
    settings: TeacherOutputsSettings,
) -> None:
    assert settings.root is not None
    reader = StoreReader(settings.root, model.teachers.names)
    stored = reader.inputs.views
    seed = stored.seed if settings.seed is None else settings.seed
    views = describe_views(model, dataset, seed, settings.views or stored.num_views)
    data = dataset_record(dataset)
    expected = {
        config.name: _expected(model, config, reader.manifests[config.name], data, views)
        for config in model.teacher_configs
    }
    report_warnings(reader.check(expected), _WORKERS_CHECK)
    used = settings.first_views or reader.num_views
    if used > reader.num_views:
        raise InputError(
            f'`teacher_outputs.first_views` is {used}, but "{settings.root}" holds '
            f'{reader.num_views} views.'
        )
    reader.check_complete(range(used))
    _set_views(model, dataset, sampler, seed, used)
    dataset.annotator = SampleAnnotator(reader)
    contents = dict.fromkeys(
        f'{entry.spec.name} ({entry.spec.dtype})' for entry in reader.layout.entries
    )
    print_log(
        f'Teachers: {len(reader.manifests)} read from "{settings.root}", {used} views, '
        f'{reader.layout.nbytes / 1024:.1f} KiB per image: {", ".join(contents)}. No network is '
        'run.' + _without_maps(model),
        'current',
    )


def _without_maps(model: MultiTeacherDistiller) -> str:
    """A sentence for the log, if embeddings are compared because no maps are stored."""
    if model.connectors is None or any(model.teachers.spec.map_channels):
        return ''
    return ' Features are compared by embeddings, since no maps are stored.'


def _expected(
    model: MultiTeacherDistiller,
    config: Any,
    stored: Manifest,
    data: DatasetRecord,
    views: ViewRecord,
) -> Manifest:
    """What the training would store of a teacher."""
    assert stored.teacher is not None
    record = teacher_record(config, model.student_preprocessing, model.token_maps)
    return Manifest(
        dataset=data,
        views=views,
        tensors=stored.tensors,
        part_size=stored.part_size,
        teacher=complete_record(record, stored.teacher),
    )


def report_warnings(warnings: Sequence[str], checked: str) -> None:
    """Log in one line that libraries have other versions than those of a store.

    Args:
        warnings (Sequence[str]): A sentence about each.
        checked (str): A sentence on what is done about it.
    """
    if warnings:
        rest = f' And {len(warnings) - 3} more.' if len(warnings) > 3 else ''
        print_log(f'{" ".join(warnings[:3])}{rest} {checked}', 'current', logging.WARNING)


class WriteThrough:
    """Fills a store while a training runs its teachers.

    In a view that is not stored, the teachers run, and the rows of every batch
    are appended to a journal. Once a view is complete, its parts are written
    from the journals of all processes; what no batch contained (a last
    incomplete batch that is left out, rows that a killed process lost) is
    computed then. From then on, the view is read. Trainings that share a store
    read what another one has written.

    A full disk ends the writing, with a warning, and not the training.

    Args:
        model (MultiTeacherDistiller): The model, on its device, with loaded
            teachers.
        loader (DataLoader): The training data.
        settings (TeacherOutputsSettings): With ``root``, ``views`` and
            ``write``.

    Raises:
        InputError: If the store holds other outputs, or there is no space for
            it.
    """

    def __init__(
        self,
        model: MultiTeacherDistiller,
        loader: DataLoader,
        settings: TeacherOutputsSettings,
    ) -> None:
        dataset, sampler = seeded_parts(loader)
        pool = model.teachers
        assert isinstance(pool, StoredTeacherPool) and pool.live is not None
        assert settings.views is not None and settings.root is not None
        views = describe_views(model, dataset, _seed_of(settings), settings.views)
        _set_views(model, dataset, sampler, views.seed, settings.views)
        self.writer = OutputWriter(
            model, pool.live, dataset, loader, settings, dataset_record(dataset), views
        )
        self.num_views = settings.views
        self.root = settings.root
        self._finished: set[int] = set()
        self._journals: dict[int, ViewJournal] = {}
        self._problem: str | None = None
        self._warned = False
        manifests = [writer.manifest for writer in self.writer.writers.values()]
        # Of all teachers: a journal of other ones must not be read.
        self._identities = [manifest.identity for manifest in manifests]
        self._write_check()
        pool.codec = self.writer.codec
        pool.record = self._record
        reader = StoreReader(settings.root, pool.names)
        dataset.annotator = SampleAnnotator(reader, optional=True, always_checksum=True)
        _restart_workers(loader)
        report_warnings(self.writer.warnings, _WORKERS_CHECK)
        complete = [view for view in range(self.num_views) if not self.writer.missing(view)]
        print_log(
            f'Teachers: {len(pool)} stored in "{self.root}" while they run, '
            f'{pool.codec.layout.nbytes / 1024:.1f} KiB per image and view; {len(complete)} of '
            f'{self.num_views} views are complete and read.',
            'current',
        )

    def _write_check(self) -> None:
        # The journal of a view takes as much space as the view, until its parts are written.
        needed = sum(self.writer.bytes_needed().values())
        if needed:
            check_free_space(self.root, needed + needed // self.num_views)

    def _journal(self, view: int) -> ViewJournal:
        if view not in self._journals:
            nbytes = self.writer.codec.layout.nbytes
            self._journals[view] = ViewJournal(self.root, view, nbytes, self._identities)
        return self._journals[view]

    def _record(
        self,
        samples: Sequence[int],
        views: Sequence[int],
        crc32: Sequence[int],
        rows: np.ndarray,
    ) -> None:
        if self._problem is not None:
            return
        by_view = np.asarray(views)
        try:
            for view in np.unique(by_view).tolist():
                chosen = np.flatnonzero(by_view == view)
                self._journal(view).append(
                    [samples[i] for i in chosen], [crc32[i] for i in chosen], rows[chosen]
                )
        except InputError as error:
            self._fail(error)

    def _fail(self, error: InputError) -> None:
        self._problem = str(error)
        self._warn(self._problem)

    def _warn(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            print_log(
                f'{problem} The training goes on, with running teachers where nothing is stored. '
                'To store the rest, mend this and resume.',
                'current',
                logging.WARNING,
            )

    def finish(self, passes: int) -> None:
        """Write the parts of all views that the training has passed.

        It is called on all processes, at the same iteration.

        Args:
            passes (int): Number of complete passes through the data.
        """
        for view in range(min(passes, self.num_views)):
            if view not in self._finished:
                self._finished.add(view)
                self._finish_view(view)

    def _finish_view(self, view: int) -> None:
        barrier()  # the rows of all processes are in the journals now
        journal = self._journal(view)
        missing = self._missing(view)
        if missing and self._problem is None:
            try:
                self._write_parts(view, missing, journal)
            except InputError as error:
                self._fail(error)
        # Waits for all processes. The main process's log is the one that is read.
        for problem in all_gather_object(self._problem):
            if problem is not None:
                self._warn(problem)
        if self._missing(view) == {}:
            journal.remove()
            del self._journals[view]
            print_log(f'Teachers: view {view} is stored in "{self.root}".', 'current')

    def _missing(self, view: int) -> dict[int, tuple[str, ...]] | None:
        """What a view lacks, the same on all processes; None if it cannot be looked up."""
        try:
            return self.writer.agreed_missing([view])[view]
        except InputError as error:
            self._fail(error)
            return None

    def _write_parts(
        self, view: int, missing: dict[int, tuple[str, ...]], journal: ViewJournal
    ) -> None:
        layout = self.writer.codec.layout
        parts = list(missing)[get_rank() :: get_world_size()]
        journal.load()
        absent = journal.missing(s for part in parts for s in self.writer.samples(part))
        if absent:
            print_log(
                f'Teachers: running on images of view {view} that were in no batch: {len(absent)}.',
                'current',
            )
            for batch in self.writer.compute((sample, view) for sample in absent):
                outputs = [batch.outputs[name] for name in self.writer.codec.names]
                rows = self.writer.codec.encode(outputs).cpu().numpy()
                journal.append(batch.samples, batch.crc32, rows)
            journal.load()
        for part in parts:
            crc32, rows = journal.read(self.writer.samples(part))
            arrays: dict[str, dict[str, Any]] = dict(layout.unpack_numpy(rows))
            self.writer.write_part(view, part, crc32, {n: arrays[n] for n in missing[part]})


def writing_session(
    model: MultiTeacherDistiller,
    loader: DataLoader,
    settings: TeacherOutputsSettings,
    names: Sequence[str] | None = None,
) -> OutputWriter:
    """Prepare the writing of a store without a training.

    Args:
        model (MultiTeacherDistiller): The model, on its device, with loaded
            teachers.
        loader (DataLoader): The training data, with seeded parts.
        settings (TeacherOutputsSettings): With ``root`` and ``views``.
        names (Sequence[str], optional): The teachers to write. Defaults to
            None: all.

    Returns:
        OutputWriter: Writes what is missing.

    Raises:
        InputError: If the store holds other outputs, or cannot be written.
    """
    dataset, _ = seeded_parts(loader)
    assert settings.views is not None and isinstance(model.teachers, TeacherPool)
    views = describe_views(model, dataset, _seed_of(settings), settings.views)
    return OutputWriter(
        model,
        model.teachers,
        dataset,
        loader,
        replace(settings, write=True),
        dataset_record(dataset),
        views,
        names,
    )
