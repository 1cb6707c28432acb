# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Runs the teachers of a pool over a data set and stores their outputs."""

import os
import socket
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_rank, get_world_size, is_main_process
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import DataLoader

from mtkdrl_mm.datasets import SampleAnnotator, SeededDataset, SeededIndex, dataset_record
from mtkdrl_mm.datasets.sample_outputs import changed_pixels_cause
from mtkdrl_mm.models import MultiTeacherDistiller, TeacherPool
from mtkdrl_mm.models.teachers.teacher_record import teacher_record
from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.teacher_outputs import (
    SAMPLE_FIELD,
    BasisFit,
    DatasetRecord,
    Manifest,
    OutputCodec,
    PackedLayout,
    StoreReader,
    StoreWriter,
    TeacherOutputsSettings,
    TensorSpec,
    ViewRecord,
    basis_key,
    check_free_space,
    create_basis,
    has_basis,
    inputs_folder,
    inputs_manifest,
    load_basis,
    name_basis,
    stored_form,
    stored_tensors,
    teacher_folder,
)
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.distributed import broadcast_from_main, check_shared_folder

from .data_workers import shield_workers
from .seeded_views import describe_views, seeded_parts, view_seed

# Bytes of the largest tensor file, which is the unit of work.
_PART_BYTES = 64 * 2**20
# A view has at least so many parts, if it has enough images, so that little is lost by a kill.
_MIN_PARTS = 8
_MIN_PART_SIZE, _MAX_PART_SIZE = 64, 16384
# Images on which principal components are fitted.
_BASIS_IMAGES = 2048

Progress = Callable[[int], None]


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

    Raises:
        InputError: If the store holds other outputs, or cannot be written.
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
        check_shared_folder(settings.root, 'The store that is written')
        self.model, self.pool, self.dataset, self.loader = model, pool, dataset, loader
        self.settings, self.root = settings, settings.root
        self.names = tuple(pool.names if names is None else names)
        self.batch_size: int = loader.batch_sampler.batch_size  # type: ignore[union-attr]
        self.num_views, self.seed = views.num_views, views.seed
        self.device = next(model.parameters()).device
        pool.batch_size = self.batch_size
        self._adopt_modes()
        first = self._first_outputs()
        specs = {
            name: stored_tensors(settings, first[name], name in self._token_teachers())
            for name in self.names
        }
        self.inputs = StoreWriter(
            inputs_folder(self.root),
            inputs_manifest(data, views, _part_size(specs, data)),
            any_part_size=True,
        )
        part_size = self.part_size
        self._stored_inputs = StoreReader(self.root, ())
        bases = self._fit_bases(specs)
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
                        self._mode(config.name),
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
        return self.dataset.blend is not None

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

    def compute(
        self, keys: Iterable[tuple[int, int]], names: Sequence[str] | None = None
    ) -> Iterator[ComputedBatch]:
        """Run teachers on samples.

        Args:
            keys (Iterable[tuple[int, int]]): Samples and views. It is read while
                the data workers load.
            names (Sequence[str], optional): The teachers. Defaults to None: all
                that are written.

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

    def seconds_per_image(self, num_batches: int = 3) -> float:
        """Time the loader and the teachers on a few batches, after a first one.

        Args:
            num_batches (int): Number of timed batches. Defaults to 3.
        """
        count = self.inputs.manifest.dataset.num_samples
        total = min(count, (num_batches + 1) * self.batch_size)
        times, images = [time.perf_counter()], [0]
        for batch in self.compute((sample, 0) for sample in range(total)):
            if self.device.type == 'cuda':
                torch.cuda.synchronize()
            times.append(time.perf_counter())
            images.append(len(batch.samples))
        first = 1 if len(times) > 2 else 0  # with the start of the data workers
        return (times[-1] - times[first]) / sum(images[first + 1 :])

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

        for batch in self.compute(keys(), names):
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

    def _adopt_modes(self) -> None:
        """Run the teachers as those of the store were, if there are any."""
        modes = {}
        for name in self.pool.names:
            stored = Manifest.find(teacher_folder(self.root, name))
            if stored is not None and stored.teacher is not None:
                modes[name] = stored.teacher.inference.get('mode')
        if modes:
            self.pool.restore_inference(modes, 'the store')

    def _mode(self, name: str) -> dict[str, Any]:
        return dict(mode=(self.pool.inference_state() or {}).get(name))

    def _first_outputs(self) -> dict[str, NetworkOutput]:
        """Outputs on the first images, after the choice of the teachers' modes."""
        count = min(self.batch_size, len(self.dataset))
        keys = [(sample, 0) for sample in range(count)]
        with self._annotated(), torch.no_grad():
            data = next(iter(self._loader(keys)))
            inputs = self.model.format_inputs(self.model.data_preprocessor(data, True)['inputs'])
            self.pool.prepare(inputs)
            return dict(zip(self.pool.names, self.pool(inputs)))

    def _token_teachers(self) -> set[str]:
        spec = self.pool.spec
        return {name for name, signed in zip(spec.names, spec.signed_maps) if signed}

    def _fit_bases(
        self, specs: dict[str, tuple[TensorSpec, ...]]
    ) -> dict[str, tuple[dict[str, np.ndarray], str]]:
        """Fit the bases that are missing on the main process; read them on all."""
        wanted = {name: self._projected(tensors) for name, tensors in specs.items()}
        wanted = {name: sizes for name, sizes in wanted.items() if sizes}
        lacking = [name for name in wanted if not has_basis(teacher_folder(self.root, name))]
        bases = {}
        if is_main_process() and lacking:
            fits = self._fit({name: wanted[name] for name in lacking})
            for name, of_kinds in fits.items():
                arrays: dict[str, np.ndarray] = {}
                for kind, fit in of_kinds.items():
                    arrays.update(name_basis(kind, fit.basis(wanted[name][kind])))
                bases[name] = create_basis(teacher_folder(self.root, name), arrays)
                shares = (
                    f'{wanted[name][kind]} components of the {kind} hold '
                    f'{100 * float(bases[name][0][f"{basis_key(kind)}explained"]):.1f} %'
                    for kind in of_kinds
                )
                print_log(f'{name}: {", ".join(shares)} of the variance.', 'current')
        barrier()
        for name, sizes in wanted.items():
            folder = teacher_folder(self.root, name)
            if name not in bases:
                bases[name] = load_basis(folder)
            for kind, size in sizes.items():
                stored = len(bases[name][0].get(f'{basis_key(kind)}components', ()))
                if stored != size:
                    raise InputError(
                        f'"{folder}" holds a basis of {stored} components for the {kind}, but they '
                        f'are to be projected onto {size}. Set that number (for none, '
                        f'`{kind}="full"`), or remove the folder and store this teacher again.'
                    )
        return bases

    def _projected(self, tensors: Sequence[TensorSpec]) -> dict[str, int]:
        """What is projected of a teacher, 'embeddings' or 'maps', and onto how many components."""
        form, settings = stored_form(tensors), self.settings
        sizes = dict(embeddings=settings.embedding_channels, maps=settings.map_channels)
        return {kind: size for kind, size in sizes.items() if form[kind] == 'projected'}

    def _fit(self, wanted: dict[str, dict[str, int]]) -> dict[str, dict[str, BasisFit]]:
        """Run teachers on some images for the components of their embeddings and maps."""
        total = len(self.dataset)
        generator = np.random.default_rng(self.seed)
        chosen = np.sort(generator.permutation(total)[:_BASIS_IMAGES]).tolist()
        print_log(
            f'Fitting principal components on {len(chosen)} images: {", ".join(wanted)}.',
            'current',
        )
        fits = {name: {kind: BasisFit() for kind in kinds} for name, kinds in wanted.items()}
        for batch in self.compute(((sample, 0) for sample in chosen), list(wanted)):
            for name, output in batch.outputs.items():
                features = dict(embeddings=output.embedding, maps=output.feature_map)
                for kind, fit in fits[name].items():
                    feature = features[kind]
                    assert feature is not None
                    fit.update(feature)
        return fits


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


def _part_size(specs: dict[str, tuple[TensorSpec, ...]], dataset: DatasetRecord) -> int:
    largest = max(sum(spec.row_bytes for spec in tensors) for tensors in specs.values())
    size = max(_MIN_PART_SIZE, min(_MAX_PART_SIZE, _PART_BYTES // largest))
    return min(size, max(_MIN_PART_SIZE, -(-dataset.num_samples // _MIN_PARTS)))
