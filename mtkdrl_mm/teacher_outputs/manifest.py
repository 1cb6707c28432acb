# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Description of a folder of a store: what was computed, from what, and how it is stored."""

import hashlib
import json
import os.path as osp
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from math import prod
from typing import Any

from mtkdrl_mm.openmmlab import PACKAGES
from mtkdrl_mm.utils.errors import InputError
from mtkdrl_mm.utils.files import create_file, describe_medium_error
from mtkdrl_mm.utils.json_files import read_json_object

from .paths import MANIFEST, partial_path

FORMAT = 'mtkdrl_mm.teacher_outputs'
FORMAT_VERSION = 1
#: Allowed data types, and their bytes per number.
ITEM_SIZES = {'float16': 2, 'float32': 4, 'uint32': 4}
# What decodes, transforms or evaluates images. Distributions of OpenCV have several names.
_LIBRARIES = (
    'torch',
    'torchvision',
    'numpy',
    'pillow',
    'opencv-python',
    'opencv-python-headless',
    'opencv-contrib-python',
    'timm',
    *(one.name for package in ('mmcv', 'mmengine', 'mmpretrain') for one in PACKAGES[package]),
)


def library_versions() -> dict[str, str]:
    """Versions of the installed libraries on which pixels and outputs depend."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class TensorSpec:
    """One tensor that is stored for every sample.

    Attributes:
        name (str): Its name, for example ``'logits'``.
        shape (tuple[int, ...]): Its shape for one sample; ``()`` for a scalar.
        dtype (str): 'float16', 'float32' or 'uint32'.

    Raises:
        InputError: If the name is empty, a side is not positive, or the data
            type is another one.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        """Check the values."""
        object.__setattr__(self, 'shape', tuple(self.shape))
        if not self.name or self.name == '__metadata__':
            raise InputError(f'A stored tensor cannot have the name {self.name!r}.')
        if not all(_is_count(side, 1) for side in self.shape):
            raise InputError(
                f'The shape of the stored tensor "{self.name}" must have positive sides, but is '
                f'{self.shape}.'
            )
        if self.dtype not in ITEM_SIZES:
            raise InputError(
                f'The dtype of the stored tensor "{self.name}" must be one of '
                f'{", ".join(ITEM_SIZES)}, but is {self.dtype!r}.'
            )

    @property
    def row_bytes(self) -> int:
        """Bytes per sample."""
        return prod(self.shape) * ITEM_SIZES[self.dtype]


@dataclass(frozen=True)
class TeacherRecord:
    """What a teacher's outputs depend on, besides its inputs.

    Attributes:
        name (str): The teacher's name.
        weights_sha256 (str): Digest of its weights.
        config (dict): Config of its network as plain data, without paths.
        class_map (Any): Its selection of the student's classes as plain data,
            or that of its text embeddings; None without one.
        preprocessing (dict): For example ``mean``, ``std`` and ``to_rgb``.
        input_size (tuple[int, int], optional): Height and width of its inputs;
            None for those of the student's.
        checkpoint (str, optional): Name of the file with its weights and of its
            folder, which identify them where the file itself is gone. Defaults
            to None.
        inference (dict): How the network was run, which changes outputs by
            rounding errors. Defaults to none.

    Raises:
        InputError: If something is no plain data.
    """

    name: str
    weights_sha256: str
    config: dict[str, Any]
    class_map: Any
    preprocessing: dict[str, Any]
    input_size: tuple[int, int] | None
    checkpoint: str | None = None
    inference: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Convert to plain data, as it is read from a file."""
        for name in ('config', 'class_map', 'preprocessing', 'inference'):
            what = f'`{name}` of teacher "{self.name}"'
            object.__setattr__(self, name, _plain(getattr(self, name), what))
        if self.input_size is not None:
            object.__setattr__(self, 'input_size', tuple(self.input_size))

    def compared(self, other: 'TeacherRecord') -> list[tuple[str, Any, Any]]:
        """What decides whether two teachers say the same: name and both values.

        Args:
            other (TeacherRecord): The other teacher.

        Returns:
            list[tuple[str, Any, Any]]: What matters most is first.
        """
        return [
            ('teacher', self.name, other.name),
            (
                'version of the weights (sha256)',
                self.weights_sha256[:12],
                other.weights_sha256[:12],
            ),
            ('class map', self.class_map, other.class_map),
            ('preprocessing', self.preprocessing, other.preprocessing),
            ('input size', self.input_size, other.input_size),
            ('network config', self.config, other.config),
        ]


@dataclass(frozen=True)
class DatasetRecord:
    """The data set, in its order.

    Attributes:
        fingerprint (str): Digest of all files and labels, in order.
        num_samples (int): Number of samples.
    """

    fingerprint: str
    num_samples: int


@dataclass(frozen=True)
class ViewRecord:
    """How the augmented views of a sample follow from their number.

    Attributes:
        num_views (int): Number of views V.
        seed (int): Seed of the augmentation.
        scheme (int): Version of the rule by which seeds follow from (seed,
            sample, view).
        pipeline (str): Digest of the data pipeline.
        blends (Any): Settings of mixup and cutmix as plain data; None without.

    Raises:
        InputError: If ``blends`` is no plain data.
    """

    num_views: int
    seed: int
    scheme: int
    pipeline: str
    blends: Any = None

    def __post_init__(self) -> None:
        """Convert to plain data, as it is read from a file."""
        object.__setattr__(self, 'blends', _plain(self.blends, '`blends` of the views'))


@dataclass(frozen=True)
class Manifest:
    """Description of the folder of one teacher, or of the inputs.

    Attributes:
        dataset (DatasetRecord): The data set.
        views (ViewRecord): The views.
        tensors (tuple[TensorSpec, ...]): The stored tensors.
        part_size (int): Number of samples per file.
        teacher (TeacherRecord, optional): The teacher; None for the inputs.
        basis_sha256 (str, optional): Digest of the file with the basis on which
            maps are projected; None without one.
        libraries (dict[str, str]): Versions of libraries.

    Raises:
        InputError: If a number is out of range, or two tensors have one name.
    """

    dataset: DatasetRecord
    views: ViewRecord
    tensors: tuple[TensorSpec, ...]
    part_size: int
    teacher: TeacherRecord | None = None
    basis_sha256: str | None = None
    libraries: dict[str, str] = field(default_factory=library_versions)

    def __post_init__(self) -> None:
        """Check the values."""
        object.__setattr__(self, 'tensors', tuple(self.tensors))
        for name, value in (
            ('num_samples', self.dataset.num_samples),
            ('num_views', self.views.num_views),
            ('part_size', self.part_size),
        ):
            if not _is_count(value, 1):
                raise InputError(
                    f'`{name}` of {self.role} must be a positive integer, but is {value!r}.'
                )
        names = [spec.name for spec in self.tensors]
        if not names or len(set(names)) < len(names):
            raise InputError(
                f'The stored tensors of {self.role} need different names, but are {names}.'
            )

    @property
    def role(self) -> str:
        """Name for messages: ``teacher "NAME"`` or ``the inputs``."""
        return 'the inputs' if self.teacher is None else f'teacher "{self.teacher.name}"'

    @property
    def num_parts(self) -> int:
        """Number of files per view."""
        return -(-self.dataset.num_samples // self.part_size)

    @property
    def row_bytes(self) -> int:
        """Bytes per sample and view."""
        return sum(spec.row_bytes for spec in self.tensors)

    @cached_property
    def identity(self) -> str:
        """Digest of all that the contents of a part depend on.

        Library versions, which do not matter, and the number of views are left
        out.
        """
        content = asdict(self)
        del content['libraries'], content['views']['num_views']
        return _digest(content)

    def digest_for_reading(self, num_views: int) -> str:
        """Digest of what decides what a training reads from the folder.

        It is what :meth:`check` compares, and the stored tensors. What changes them by rounding
        errors only is left out, as it is there: the mode of inference, libraries, and the basis,
        which follows from the rest. A store that was removed and filled again on another
        machine has the same digest.

        Args:
            num_views (int): How many views are read.
        """
        content = asdict(self)
        for key in ('libraries', 'part_size', 'basis_sha256'):
            del content[key]
        content['views']['num_views'] = num_views
        if content['teacher'] is not None:
            del content['teacher']['checkpoint'], content['teacher']['inference']
        return _digest(content)

    def samples(self, part: int) -> range:
        """Samples of a part.

        Raises:
            InputError: If there is no such part.
        """
        if not 0 <= part < self.num_parts:
            raise InputError(f'{self.role} has no part {part}, but 0 to {self.num_parts - 1}.')
        first = part * self.part_size
        return range(first, min(first + self.part_size, self.dataset.num_samples))

    def check(self, other: 'Manifest', folder: str, writing: bool = False) -> list[str]:
        """Make sure that a training or writer may use a folder.

        Args:
            other (Manifest): What the training or writer would store.
            folder (str): The folder that this manifest was read from, for
                messages.
            writing (bool): Whether the form of the contents (tensors, part
                size, basis) must be equal as well. Defaults to False.

        Returns:
            list[str]: A sentence about each library of another version.

        Raises:
            InputError: If the outputs are not those of ``other``. The message
                names the first difference.
        """
        for what, stored, here, remedy in self._compared(other, writing):
            difference = first_difference(stored, here, what)
            if difference is not None:
                name, there, current = difference
                raise InputError(
                    f'"{folder}" was stored for {self.role} with another {name}: {there} there, '
                    f'{current} here. {remedy}'
                )
        return [
            f'"{folder}" was stored with {name} {self.libraries.get(name, "(not installed)")}; '
            f'here it is {other.libraries.get(name, "(not installed)")}.'
            for name in sorted({*self.libraries, *other.libraries})
            if self.libraries.get(name) != other.libraries.get(name)
        ]

    def _compared(self, other: 'Manifest', writing: bool) -> Sequence[tuple[str, Any, Any, str]]:
        """Compared values: name, stored, here, remedy; what matters most is first."""
        same = 'Use the same, or another folder for the store.'
        rows: list[tuple[str, Any, Any, str]] = []
        mine, theirs = self.teacher, other.teacher
        if mine is None or theirs is None:
            rows.append(('kind of contents', self.role, other.role, same))
        else:
            again = (
                'Use the same, or store this teacher again: under another name, or after removing '
                'that folder.'
            )
            rows += [(*row, again) for row in mine.compared(theirs)]
        rows += [
            ('number of samples', self.dataset.num_samples, other.dataset.num_samples, same),
            (
                'data set (files, labels or order)',
                self.dataset.fingerprint[:12],
                other.dataset.fingerprint[:12],
                same,
            ),
            ('data pipeline', self.views.pipeline[:12], other.views.pipeline[:12], same),
            ('version of the seed scheme', self.views.scheme, other.views.scheme, same),
            ('augmentation seed', self.views.seed, other.views.seed, same),
            ('number of views', self.views.num_views, other.views.num_views, same),
            ('setting of blends', self.views.blends, other.views.blends, same),
        ]
        if writing:
            rows += [
                (
                    'choice of tensors',
                    {spec.name: [*spec.shape, spec.dtype] for spec in self.tensors},
                    {spec.name: [*spec.shape, spec.dtype] for spec in other.tensors},
                    same,
                ),
                ('part size', self.part_size, other.part_size, same),
                (
                    'mode of inference',
                    {} if mine is None else mine.inference,
                    {} if theirs is None else theirs.inference,
                    'Set the same `teacher_inference`, or another folder for the store.',
                ),
                ('basis of the maps', self.basis_sha256, other.basis_sha256, same),
            ]
        return rows

    def write(self, folder: str) -> bool:
        """Write the manifest into a folder, unless there is one.

        Args:
            folder (str): An existing folder.

        Returns:
            bool: False if there was one. Of several processes, one succeeds.

        Raises:
            InputError: If the file cannot be written.
        """
        content = dict(format=FORMAT, format_version=FORMAT_VERSION, **asdict(self))
        content['sha256'] = _digest(content)
        path = osp.join(folder, MANIFEST)
        try:
            return create_file(
                path, (json.dumps(content, indent=1) + '\n').encode(), partial_path(path)
            )
        except OSError as error:
            raise InputError(describe_medium_error(error, path) + '.') from error

    @classmethod
    def find(cls, folder: str) -> 'Manifest | None':
        """Read the manifest of a folder; None if there is none.

        Args:
            folder (str): Folder of a teacher or the inputs.

        Raises:
            InputError: As for :meth:`read`.
        """
        return cls.read(folder) if osp.isfile(osp.join(folder, MANIFEST)) else None

    @classmethod
    def read(cls, folder: str) -> 'Manifest':
        """Read the manifest of a folder.

        Args:
            folder (str): Folder of a teacher or the inputs.

        Returns:
            Manifest: The manifest.

        Raises:
            InputError: If it is missing, damaged, changed by hand, or of
                another version of the format.
        """
        path = osp.join(folder, MANIFEST)
        if not osp.isfile(path):
            raise InputError(
                f'"{path}" does not exist: "{folder}" holds no stored outputs. Set the folder that '
                'they were written to.'
            )
        content = read_json_object(path)
        if content.get('format') != FORMAT:
            raise InputError(f'"{path}" is no manifest of stored teacher outputs.')
        if content.get('format_version') != FORMAT_VERSION:
            raise InputError(
                f'"{path}" has version {content.get("format_version")!r} of the format, and this '
                f'version of mtkdrl_mm reads version {FORMAT_VERSION}. Use the version of '
                'mtkdrl_mm that wrote it, or store the outputs again in another folder.'
            )
        digest = content.pop('sha256', None)
        if digest != _digest(content):
            raise InputError(
                f'"{path}" was changed after it was written: its contents do not have its '
                'checksum. Restore it, or remove it and repeat the run that wrote it.'
            )
        del content['format'], content['format_version']
        try:
            return cls._from_dict(content)
        except (KeyError, TypeError, InputError) as error:
            raise InputError(
                f'"{path}" is damaged: {error}. Remove it, and repeat the run that wrote it.'
            ) from error

    @classmethod
    def _from_dict(cls, content: dict[str, Any]) -> 'Manifest':
        teacher = content['teacher']
        return cls(
            **{
                **content,
                'dataset': DatasetRecord(**content['dataset']),
                'views': ViewRecord(**content['views']),
                'tensors': tuple(TensorSpec(**spec) for spec in content['tensors']),
                'teacher': None if teacher is None else TeacherRecord(**teacher),
            }
        )


def inputs_manifest(
    dataset: DatasetRecord,
    views: ViewRecord,
    part_size: int,
    libraries: Mapping[str, str] | None = None,
) -> Manifest:
    """Build the manifest of the inputs: one crc32 of the pixels per sample and view.

    Args:
        dataset (DatasetRecord): The data set.
        views (ViewRecord): The views.
        part_size (int): Number of samples per file.
        libraries (Mapping[str, str], optional): Versions of libraries. Defaults
            to None: the installed ones.

    Returns:
        Manifest: With one tensor, ``'crc32'``, of shape () and type uint32.
    """
    return Manifest(
        dataset=dataset,
        views=views,
        tensors=(TensorSpec('crc32', (), 'uint32'),),
        part_size=part_size,
        libraries=library_versions() if libraries is None else dict(libraries),
    )


def _is_count(value: Any, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _plain(value: Any, what: str) -> Any:
    """Convert tuples to lists and keys to text, as JSON does."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f'{what} must be plain data, but is not: {error}.') from error


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def first_difference(stored: Any, here: Any, name: str) -> tuple[str, str, str] | None:
    """Find the first entry of plain data that differs.

    Args:
        stored (Any): What was written.
        here (Any): What is to be compared with it.
        name (str): What both are, for messages.

    Returns:
        tuple[str, str, str] | None: Name and both values, in short; None if all
        are equal.
    """
    if isinstance(stored, dict) and isinstance(here, dict):
        for key in [*stored, *(key for key in here if key not in stored)]:
            if key not in stored or key not in here:
                there, current = (
                    _shorten(side[key]) if key in side else 'none' for side in (stored, here)
                )
                return f'{name} (`{key}`)', there, current
            found = first_difference(stored[key], here[key], f'{name} (`{key}`)')
            if found is not None:
                return found[0].replace('`) (`', '.'), found[1], found[2]
        return None
    if json.dumps(stored, sort_keys=True) == json.dumps(here, sort_keys=True):
        return None
    if isinstance(stored, (list, tuple)) and isinstance(here, (list, tuple)):
        for index, (one, other) in enumerate(zip(stored, here)):
            # Long lists are equal for most of their length.
            if len(stored) > 8 and first_difference(one, other, '') is not None:
                return f'{name} (entry {index})', _shorten(one), _shorten(other)
    return name, _shorten(stored), _shorten(here)


def _shorten(value: Any) -> str:
    text = str(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f'{text[:57]}...'
