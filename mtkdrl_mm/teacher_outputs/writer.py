# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Writing of one folder of a store."""

import os
import os.path as osp
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mtkdrl_mm.utils.errors import InputError
from mtkdrl_mm.utils.files import atomic_write, describe_medium_error

from .basis import read_basis
from .manifest import Manifest, TensorSpec
from .part_file import encode_part
from .paths import MANIFEST, part_name, part_path, partial_path, remove_leftovers, view_folder

# Header of a part, and what file systems round up.
_PART_OVERHEAD = 8192


class StoreWriter:
    """Writes the parts of one teacher, or of the inputs.

    Any number of processes on any number of machines may write one folder, be
    killed, and start again; there are no locks. A part gets its name when it is
    complete and on the disk. Two processes that write the same part replace a
    file by an equal one.

    Args:
        folder (str): Folder of the teacher or the inputs; it is created.
        manifest (Manifest): Its manifest. An existing one must be equal to it,
            except for library versions.
        any_part_size (bool): Whether the part size of an existing manifest is
            taken over. Defaults to False.

    Attributes:
        manifest (Manifest): That of the folder.
        warnings (list[str]): A sentence about each library of another version
            than in an existing manifest.

    Raises:
        InputError: If the folder holds other outputs, or cannot be written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from mtkdrl_mm.teacher_outputs import (
        ...     DatasetRecord, StoreWriter, ViewRecord, inputs_folder, inputs_manifest)
        >>> views = ViewRecord(num_views=1, seed=0, scheme=1, pipeline='1f')
        >>> manifest = inputs_manifest(DatasetRecord('3a', num_samples=10), views, part_size=8)
        >>> with tempfile.TemporaryDirectory() as root:
        ...     writer = StoreWriter(inputs_folder(root), manifest)
        ...     _ = writer.write_part(0, 0, dict(crc32=np.arange(8, dtype=np.uint32)))
        ...     writer.missing(view=0)
        [1]
    """

    def __init__(self, folder: str, manifest: Manifest, any_part_size: bool = False) -> None:
        self.folder = folder
        self.manifest = manifest
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise InputError(describe_medium_error(error, folder) + '.') from error
        self.warnings: list[str] = []
        # Checked beforehand, so that an existing store in a read-only folder is named as such.
        if osp.exists(osp.join(folder, MANIFEST)) or not manifest.write(folder):
            self.manifest = Manifest.read(folder)
            if any_part_size:
                manifest = replace(manifest, part_size=self.manifest.part_size)
            self.warnings = self.manifest.check(manifest, folder, writing=True)
        if self.manifest.basis_sha256 is not None:
            read_basis(folder, self.manifest.basis_sha256)
        remove_leftovers(folder)
        for view in range(manifest.views.num_views):
            remove_leftovers(view_folder(folder, view))

    def has_part(self, view: int, part: int) -> bool:
        """Whether a part exists, written by this or another process."""
        return osp.exists(part_path(self.folder, view, part))

    def missing(self, view: int) -> list[int]:
        """Numbers of the parts of a view that do not exist.

        Args:
            view (int): Number of the view.

        Returns:
            list[int]: Ascending.
        """
        return missing_parts(self.folder, self.manifest, view)

    def bytes_needed(self, views: Iterable[int] | None = None) -> int:
        """Bytes that the missing parts will take.

        Args:
            views (Iterable[int], optional): Numbers of the views. Defaults to
                None: all.
        """
        return sum(
            self._part_bytes(part)
            for view in (range(self.manifest.views.num_views) if views is None else views)
            for part in self.missing(view)
        )

    def bytes_total(self) -> int:
        """Bytes that all parts of all views take."""
        parts = range(self.manifest.num_parts)
        return self.manifest.views.num_views * sum(map(self._part_bytes, parts))

    def _part_bytes(self, part: int) -> int:
        return len(self.manifest.samples(part)) * self.manifest.row_bytes + _PART_OVERHEAD

    def check_free_space(self, views: Iterable[int] | None = None) -> None:
        """Make sure that the missing parts fit on the disk.

        Args:
            views (Iterable[int], optional): As for :meth:`bytes_needed`.

        Raises:
            InputError: If they do not.
        """
        check_free_space(self.folder, self.bytes_needed(views))

    def write_part(self, view: int, part: int, tensors: Mapping[str, Tensor | np.ndarray]) -> int:
        """Write a part.

        Args:
            view (int): Number of the view.
            part (int): Number of the part.
            tensors (Mapping[str, Tensor | np.ndarray]): The tensors of the
                manifest, each of shape (samples of the part, *shape), of any
                floating-point dtype and device. They are converted to the
                manifest's dtype; uint32 is not.

        Returns:
            int: Number of values beyond the range of float16, which were stored
            as its largest number.

        Raises:
            InputError: If the tensors are not those of the manifest, a value is
                not finite, or the part cannot be written. No incomplete file is
                left.
        """
        _check_view(self.manifest, view)
        rows = len(self.manifest.samples(part))
        where = f'part {part} of view {view} of {self.manifest.role}'
        if set(tensors) != {spec.name for spec in self.manifest.tensors}:
            raise InputError(
                f'The tensors for {where} are {sorted(tensors)}, but must be those of the '
                f'manifest: {sorted(spec.name for spec in self.manifest.tensors)}.'
            )
        arrays, saturated = {}, 0
        for spec in self.manifest.tensors:
            arrays[spec.name], count = _convert(tensors[spec.name], spec, rows, where)
            saturated += count
        content = encode_part(self.manifest, view, part, arrays)
        path = part_path(self.folder, view, part)
        try:
            os.makedirs(osp.dirname(path), exist_ok=True)
            try:
                _write(path, content)
            except FileNotFoundError:
                # Another host of the same name took this process for a dead one.
                _write(path, content)
        except OSError as error:
            raise InputError(
                f'{describe_medium_error(error, path)}. The complete parts are kept; make space '
                'or access, and run the same again.'
            ) from error
        return saturated


def missing_parts(folder: str, manifest: Manifest, view: int) -> list[int]:
    """Numbers of the parts of a view that do not exist, ascending.

    Raises:
        InputError: If the manifest has no such view, or the folder cannot be
            read.
    """
    _check_view(manifest, view)
    path = view_folder(folder, view)
    try:
        names = set(os.listdir(path))
    except FileNotFoundError:
        names = set()
    except OSError as error:
        raise InputError(f'"{path}" cannot be read: {error.strerror or error}.') from error
    return [part for part in range(manifest.num_parts) if part_name(part) not in names]


def check_free_space(folder: str, needed: int) -> None:
    """Make sure that a number of bytes fits on the disk of a folder.

    Args:
        folder (str): An existing folder.
        needed (int): Number of bytes.

    Raises:
        InputError: If it does not fit.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f'The outputs for "{folder}" need {format_bytes(needed)} more, but only '
            f'{format_bytes(free)} are free on that disk. Make space, choose another folder, or '
            'store fewer views or smaller tensors.'
        )


def format_bytes(count: float) -> str:
    """A number of bytes with its unit: "1.5 GiB"."""
    for unit, size in (('TiB', 2**40), ('GiB', 2**30), ('MiB', 2**20), ('KiB', 2**10)):
        if count >= size:
            return f'{count / size:.1f} {unit}'
    return f'{count:.0f} bytes'


def _write(path: str, content: bytes) -> None:
    with atomic_write(path, 'wb', partial=partial_path(path)) as file:
        file.write(content)


def _check_view(manifest: Manifest, view: int) -> None:
    if not 0 <= view < manifest.views.num_views:
        raise InputError(
            f'View {view} of {manifest.role} does not exist: there are '
            f'{manifest.views.num_views}, from 0.'
        )


def _convert(
    tensor: Tensor | np.ndarray, spec: TensorSpec, rows: int, where: str
) -> tuple[np.ndarray, int]:
    """Convert to a contiguous array of the manifest's dtype; count what was saturated."""
    array: np.ndarray
    if isinstance(tensor, Tensor):
        host = tensor.detach().cpu()
        # NumPy has no bfloat16.
        array = (host.float() if host.dtype == torch.bfloat16 else host).numpy()
    else:
        array = np.asarray(tensor)
    if array.shape != (rows, *spec.shape):
        raise InputError(
            f'`{spec.name}` for {where} has the shape {array.shape}, but must have '
            f'{(rows, *spec.shape)}.'
        )
    if spec.dtype == 'uint32' or array.dtype.kind != 'f':
        if array.dtype != np.dtype(spec.dtype):
            raise InputError(
                f'`{spec.name}` for {where} has the dtype {array.dtype}, which cannot be stored '
                f'as {spec.dtype}.'
            )
        return np.ascontiguousarray(array), 0
    finite = np.isfinite(array)
    if not finite.all():
        row = int(np.argwhere(~finite)[0, 0])
        raise InputError(
            f'`{spec.name}` for {where} holds {int((~finite).sum())} values that are not finite, '
            f'the first in row {row} of the part. Check the teacher with '
            'tools/analysis_tools/check_teachers.py, or run it in float32.'
        )
    largest = np.finfo(spec.dtype).max
    if array.dtype.itemsize > np.dtype(spec.dtype).itemsize:
        # Between the largest number and what rounds to infinity, rounding alone saturates.
        saturated = int(np.count_nonzero(np.abs(array) > largest))
        if saturated:
            array = np.clip(array, -largest, largest)
    else:
        saturated = 0
    return np.ascontiguousarray(array, dtype=spec.dtype), saturated
