# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Fills a store of teacher outputs while a training runs its teachers."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.dist import all_gather_object, barrier, get_rank, get_world_size
from mmengine.logging import print_log
from torch.utils.data import DataLoader

from mtkdrl_mm.datasets import SampleAnnotator, dataset_record
from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.models.teachers.stored_pool import StoredTeacherPool
from mtkdrl_mm.teacher_outputs import (
    StoreReader,
    TeacherOutputsSettings,
    ViewJournal,
    check_free_space,
)
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.distributed import UnevenWork

from .output_writer import OutputWriter
from .seeded_views import (
    WORKERS_CHECK,
    describe_views,
    report_warnings,
    restart_workers,
    seeded_parts,
    set_views,
    view_seed,
)


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
        views = describe_views(model, dataset, view_seed(settings), settings.views)
        set_views(model, dataset, sampler, views.seed, settings.views)
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
        restart_workers(loader)
        report_warnings(self.writer.warnings, WORKERS_CHECK)
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
        work = UnevenWork()
        if missing and self._problem is None:
            try:
                self._write_parts(view, missing, journal, work)
            except InputError as error:
                self._fail(error)
        work.wait()
        # The main process's log is the one that is read.
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
        self,
        view: int,
        missing: dict[int, tuple[str, ...]],
        journal: ViewJournal,
        work: UnevenWork,
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
            for batch in self.writer.runner.compute((sample, view) for sample in absent):
                outputs = [batch.outputs[name] for name in self.writer.codec.names]
                rows = self.writer.codec.encode(outputs).cpu().numpy()
                journal.append(batch.samples, batch.crc32, rows)
                work.go_on()
            journal.load()
        for part in parts:
            crc32, rows = journal.read(self.writer.samples(part))
            arrays: dict[str, dict[str, Any]] = dict(layout.unpack_numpy(rows))
            self.writer.write_part(view, part, crc32, {n: arrays[n] for n in missing[part]})
            work.go_on()
