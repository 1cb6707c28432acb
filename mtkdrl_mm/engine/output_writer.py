# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Writes the outputs of teachers on a data set, where a store lacks them."""

import os
import socket
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size, is_main_process
from torch import Tensor
from torch.utils.data import DataLoader

from mtkdrl_mm.datasets import SeededDataset, dataset_record
from mtkdrl_mm.datasets.sample_outputs import changed_pixels_cause
from mtkdrl_mm.models import MultiTeacherDistiller, TeacherPool
from mtkdrl_mm.models.teachers.teacher_record import teacher_record
from mtkdrl_mm.teacher_outputs import (
    DatasetRecord,
    Manifest,
    OutputCodec,
    PackedLayout,
    StoreReader,
    StoreWriter,
    TeacherOutputsSettings,
    TensorSpec,
    ViewRecord,
    check_free_space,
    check_store_folder,
    inputs_folder,
    inputs_manifest,
    stored_tensors,
    teacher_folder,
)
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.class_names import dataset_classes
from mtkdrl_mm.utils.distributed import broadcast_from_main, check_shared_folder

from .output_bases import fit_bases
from .seeded_views import describe_views, seeded_parts, view_seed
from .teacher_runner import ComputedBatch, TeacherRunner

# Bytes of the largest tensor file, which is the unit of work.
_PART_BYTES = 64 * 2**20
# A view has at least so many parts, if it has enough images, so that little is lost by a kill.
_MIN_PARTS = 8
_MIN_PART_SIZE, _MAX_PART_SIZE = 64, 16384

Progress = Callable[[int], None]


class OutputWriter:
    """Computes the outputs of a pool on a data set, and writes what a store lacks.

    The first process that writes a store decides how it is cut into parts, in
    which mode the networks run, and the bases of what is projected; all others
    follow it. Several processes, started together or not, divide the parts.

    Args:
        model (MultiTeacherDistiller): The model, on its device, with loaded
            teachers.
        pool (TeacherPool): Its teachers.
        dataset (SeededDataset): The training data, connected to the views by
            :func:`connect_teacher_outputs`.
        loader (DataLoader): Its loader, for batch size, workers and collation.
        settings (TeacherOutputsSettings): With ``root`` and ``views``.
        data (DatasetRecord): Identity of the data set.
        views (ViewRecord): Identity of the views.
        names (Sequence[str], optional): The teachers to write. Defaults to
            None: all.

    Attributes:
        writers (dict[str, StoreWriter]): By teacher.
        inputs (StoreWriter): That of the checksums.
        codec (OutputCodec): Conversion of the outputs.
        runner (TeacherRunner): Runs the teachers.

    Raises:
        InputError: If the store holds other outputs or something else, or cannot be
            written, or a teacher has the classes of the data in another order.
    """

    def __init__(
        self,
        model: MultiTeacherDistiller,
        pool: TeacherPool,
        dataset: SeededDataset,
        loader: DataLoader,
        settings: TeacherOutputsSettings,
        data: DatasetRecord,
        views: ViewRecord,
        names: Sequence[str] | None = None,
    ) -> None:
        assert settings.root is not None
        check_store_folder(settings.root)
        check_shared_folder(settings.root, 'The store that is written')
        classes = dataset_classes(dataset)
        if classes is not None:
            pool.check_classes(classes)
        self.runner = TeacherRunner(model, pool, dataset, loader, views.seed, names)
        self.root = settings.root
        self.names = self.runner.names
        self.num_views = views.num_views
        _adopt_modes(pool, self.root)
        first = self.runner.first_outputs()
        signed = dict(zip(pool.spec.names, pool.spec.signed_maps))
        specs = {name: stored_tensors(settings, first[name], signed[name]) for name in self.names}
        self.inputs = StoreWriter(
            inputs_folder(self.root),
            inputs_manifest(data, views, _part_size(specs, data)),
            any_part_size=True,
        )
        part_size = self.part_size
        self._stored_inputs = StoreReader(self.root, ())
        bases = fit_bases(self.runner, specs, settings)
        modes = pool.inference_state() or {}
        self.writers = {
            config.name: StoreWriter(
                teacher_folder(self.root, config.name),
                Manifest(
                    dataset=data,
                    views=views,
                    tensors=specs[config.name],
                    part_size=part_size,
                    teacher=teacher_record(
                        config,
                        pool.student_preprocessing,
                        model.token_maps,
                        dict(mode=modes.get(config.name)),
                    ),
                    basis_sha256=bases[config.name][1] if config.name in bases else None,
                ),
            )
            for config in model.teacher_configs
            if config.name in self.names
        }
        self.codec = OutputCodec(
            PackedLayout({name: specs[name] for name in self.names}),
            {name: basis for name, (basis, _) in bases.items()},
        )

    @property
    def warnings(self) -> list[str]:
        """A sentence about each library of another version than in the store."""
        found = dict.fromkeys(self.inputs.warnings)
        for writer in self.writers.values():
            found.update(dict.fromkeys(writer.warnings))
        return list(found)

    @property
    def blends(self) -> bool:
        """Whether images are blended, so that no label is theirs alone."""
        return self.runner.dataset.blend is not None

    @property
    def part_size(self) -> int:
        """Number of samples per part."""
        return self.inputs.manifest.part_size

    def samples(self, part: int) -> range:
        """The samples of a part."""
        return self.inputs.manifest.samples(part)

    def missing(self, view: int) -> dict[int, tuple[str, ...]]:
        """Parts of a view that are not complete, and the teachers that lack them."""
        lacking: dict[int, list[str]] = {part: [] for part in self.inputs.missing(view)}
        for name, writer in self.writers.items():
            for part in writer.missing(view):
                lacking.setdefault(part, []).append(name)
        return {part: tuple(lacking[part]) for part in sorted(lacking)}

    def agreed_missing(self, views: Iterable[int]) -> dict[int, dict[int, tuple[str, ...]]]:
        """What some views lack as the main process sees it, for all processes.

        Another process may write at any moment, so that two of them that look it
        up by themselves would not agree on their shares. It is called on all
        processes.

        Args:
            views (Iterable[int]): Numbers of the views.

        Returns:
            dict[int, dict[int, tuple[str, ...]]]: For each view as
            :meth:`missing`.

        Raises:
            InputError: On all processes, if a folder cannot be read.
        """
        found: dict[int, dict[int, tuple[str, ...]]] = {}
        problem = None
        if is_main_process():
            try:
                found = {view: self.missing(view) for view in views}
            except InputError as error:
                problem = str(error)
        found, problem = broadcast_from_main((found, problem))
        if problem is not None:
            raise InputError(problem)
        return found

    def bytes_needed(self) -> dict[str, int]:
        """Bytes that are still to be written, by teacher and for ``inputs``."""
        return {
            **{name: writer.bytes_needed() for name, writer in self.writers.items()},
            'inputs': self.inputs.bytes_needed(),
        }

    def check_free_space(self) -> None:
        """Make sure that all that is missing fits on the disk.

        Raises:
            InputError: If it does not.
        """
        check_free_space(self.root, sum(self.bytes_needed().values()))

    def write_missing(
        self,
        progress: Progress | None = None,
        views: Iterable[int] | None = None,
        inspect: Callable[[ComputedBatch], None] | None = None,
    ) -> None:
        """Write all parts that are missing; processes that run together divide them.

        It is called on all of them.

        Args:
            progress (Callable, optional): Called with the number of images that
                were done. Defaults to None.
            views (Iterable[int], optional): Numbers of the views. Defaults to
                None: all.
            inspect (Callable, optional): Called with every batch. Defaults to
                None.

        Raises:
            InputError: If a part cannot be written; complete parts are kept.
        """
        for view, parts in self._my_share(views).items():
            groups: dict[tuple[str, ...], list[int]] = {}
            for part, names in parts.items():
                groups.setdefault(names, []).append(part)
            for names, numbers in groups.items():
                self._write_parts(view, numbers, names, progress, inspect)

    def write_part(
        self, view: int, part: int, crc32: np.ndarray, tensors: dict[str, dict[str, Any]]
    ) -> None:
        """Write a part of the inputs and of some teachers, where it is missing.

        Args:
            view (int): Number of the view.
            part (int): Number of the part.
            crc32 (np.ndarray): Checksums of the pixels, uint32.
            tensors (dict[str, dict]): For each teacher its tensors by name.

        Raises:
            InputError: If it cannot be written, or the inputs are stored with
                other pixels.
        """
        stored = self.inputs.has_part(view, part)
        if stored:
            self._check_pixels(view, part, crc32)
        # The inputs last: they exist where all has been written.
        for name, values in tensors.items():
            if not self.writers[name].has_part(view, part):
                self.writers[name].write_part(view, part, values)
        if not stored:
            self.inputs.write_part(view, part, dict(crc32=crc32))

    def _check_pixels(self, view: int, part: int, crc32: np.ndarray) -> None:
        """Make sure that a teacher that is added has seen the same pixels as those before."""
        samples = self.samples(part)
        expected = self._stored_inputs.read_checksums(samples, view)
        different = np.flatnonzero(expected != crc32)
        if len(different):
            raise InputError(
                f'The pixels of {len(different)} of {len(samples)} images in part {part} of view '
                f'{view} are not those of "{self.inputs.folder}", the first of them image number '
                f'{samples[int(different[0])]}. {changed_pixels_cause(self.inputs.manifest)}, or '
                'store all teachers again in another folder.'
            )

    def num_missing_images(self) -> int:
        """Number of augmented images on which this process will run teachers.

        It is called on all processes.
        """
        return sum(len(self.samples(part)) for parts in self._my_share().values() for part in parts)

    def _write_parts(
        self,
        view: int,
        parts: Sequence[int],
        names: tuple[str, ...],
        progress: Progress | None,
        inspect: Callable[[ComputedBatch], None] | None,
    ) -> None:
        buffers: dict[int, list[tuple[list[int], dict[str, dict[str, Tensor]]]]] = {}
        counts: dict[int, int] = {}

        def keys() -> Iterator[tuple[int, int]]:
            for part in parts:
                # Another process may have written it meanwhile.
                if self.inputs.has_part(view, part) and all(
                    self.writers[name].has_part(view, part) for name in names
                ):
                    if progress is not None:
                        progress(len(self.samples(part)))
                    continue
                for sample in self.samples(part):
                    yield sample, view

        for batch in self.runner.compute(keys(), names):
            if inspect is not None:
                inspect(batch)
            tensors = {
                name: {k: v.cpu() for k, v in self.codec.to_tensors(name, output).items()}
                for name, output in batch.outputs.items()
            }
            owners = np.asarray(batch.samples) // self.part_size
            for part in dict.fromkeys(owners.tolist()):
                rows = np.flatnonzero(owners == part)
                index = torch.from_numpy(rows)
                buffers.setdefault(part, []).append(
                    (
                        [batch.crc32[row] for row in rows],
                        {
                            name: {k: v[index] for k, v in values.items()}
                            for name, values in tensors.items()
                        },
                    )
                )
                counts[part] = counts.get(part, 0) + len(rows)
                if counts[part] == len(self.samples(part)):
                    self._write_buffers(view, part, buffers.pop(part))
            if progress is not None:
                progress(len(batch.samples))

    def _write_buffers(self, view: int, part: int, buffers: list) -> None:
        crc32 = np.array([value for values, _ in buffers for value in values], np.uint32)
        names = buffers[0][1].keys()
        tensors = {
            name: {
                key: torch.cat([values[name][key] for _, values in buffers])
                for key in buffers[0][1][name]
            }
            for name in names
        }
        self.write_part(view, part, crc32, tensors)

    def _my_share(
        self, views: Iterable[int] | None = None
    ) -> dict[int, dict[int, tuple[str, ...]]]:
        """This process's missing parts of each view, and the teachers that lack them."""
        shares = {}
        wanted = range(self.num_views) if views is None else views
        number = zlib.crc32(f'{socket.gethostname()} {os.getpid()}'.encode())
        for view, missing in self.agreed_missing(wanted).items():
            parts = list(missing)[get_rank() :: get_world_size()]
            start = number % max(len(parts), 1)  # processes of other jobs start elsewhere
            shares[view] = {part: missing[part] for part in parts[start:] + parts[:start]}
        return shares


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
    views = describe_views(model, dataset, view_seed(settings), settings.views)
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


def _part_size(specs: dict[str, tuple[TensorSpec, ...]], dataset: DatasetRecord) -> int:
    largest = max(sum(spec.row_bytes for spec in tensors) for tensors in specs.values())
    size = max(_MIN_PART_SIZE, min(_MAX_PART_SIZE, _PART_BYTES // largest))
    return min(size, max(_MIN_PART_SIZE, -(-dataset.num_samples // _MIN_PARTS)))


def _adopt_modes(pool: TeacherPool, root: str) -> None:
    """Run the teachers as those of the store were, if there are any."""
    modes = {}
    for name in pool.names:
        stored = Manifest.find(teacher_folder(root, name))
        if stored is not None and stored.teacher is not None:
            modes[name] = stored.teacher.inference.get('mode')
    if modes:
        pool.restore_inference(modes, 'the store')
