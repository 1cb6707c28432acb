# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Reading of stored rows, by position."""

import errno
import os
import os.path as osp
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtkdrl_mm.utils.errors import InputError, near_matches

from .basis import read_basis
from .manifest import Manifest
from .packed_layout import PackedLayout
from .part_file import PartHeader, missing_part, read_header, truncated_part, verify_part
from .paths import inputs_folder, part_path, teacher_folder
from .writer import missing_parts

# Linux reads only what is in the page cache with this flag.
_NOWAIT = getattr(os, 'RWF_NOWAIT', 0)
_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
# One read: file, destination, position, path.
_Read = tuple[int, memoryview, int, str]


def list_teachers(root: str) -> list[str]:
    """Names of the teachers in a store, sorted.

    Args:
        root (str): The store.

    Returns:
        list[str]: Empty if the folder does not exist.

    Raises:
        InputError: If a manifest is damaged.
    """
    try:
        folders = sorted(os.listdir(root))
    except OSError:
        return []
    found = []
    for name in folders:
        manifest = Manifest.find(osp.join(root, name))
        if manifest is not None and manifest.teacher is not None:
            found.append(manifest.teacher.name)
    return sorted(found)


class _Folder:
    """A folder that is read: its manifest, and where each tensor goes in a packed row."""

    def __init__(self, path: str, manifest: Manifest, offsets: Sequence[int]) -> None:
        self.path = path
        self.manifest = manifest
        self.part_size = manifest.part_size
        self.targets = [
            (offset, offset + spec.row_bytes, spec.row_bytes)
            for offset, spec in zip(offsets, manifest.tensors)
        ]


class _OpenPart:
    """An open part."""

    def __init__(self, handle: int, path: str, folder: _Folder, header: PartHeader) -> None:
        self.handle = handle
        self.path = path
        # Begin and end in the packed row, bytes per row, position in the file.
        self.reads = [
            (*target, position) for target, position in zip(folder.targets, header.offsets)
        ]


class StoreReader:
    """Reads the stored outputs of teachers for any samples and views.

    Rows are read at the positions given by each file's own header. Files are
    opened when they are first needed, and a bounded number stays open. What is
    not in the page cache is requested at once for the whole call, so that the
    disk works on many reads together.

    A reader can be pickled, and used after a fork and by several threads. It
    never writes.

    Args:
        root (str): The store.
        teachers (Sequence[str]): Names of the teachers, in the order of the
            packed rows.
        verify (bool): Whether the checksum of a part is compared when it is
            first opened, for which all of it is read. Identity and size are
            always checked. Processes that are forked from this one, or get the
            reader from it by torch's multiprocessing, share what was verified.
            Defaults to True.
        max_open_files (int, optional): Largest number of open files. Defaults
            to None: a quarter of what the process may open, at most 1024.

    Attributes:
        layout (PackedLayout): Positions in a packed row.
        inputs (Manifest): Manifest of the inputs.
        manifests (dict[str, Manifest]): Manifest of each teacher.

    Raises:
        InputError: If a teacher or the inputs are not in the store, a manifest
            or basis is damaged, or teachers were stored from other inputs.
    """

    _pid: int
    _use_nowait: bool

    def __init__(
        self,
        root: str,
        teachers: Sequence[str],
        verify: bool = True,
        max_open_files: int | None = None,
    ) -> None:
        self.root = root
        self.verify = verify
        self.max_open_files = _default_open_files() if max_open_files is None else max_open_files
        if self.max_open_files < 1:
            raise InputError(f'`max_open_files` must be at least 1, but is {max_open_files}.')
        if len(set(teachers)) < len(teachers):
            raise InputError(f'The teachers {list(teachers)} include one twice.')
        self.inputs = self._read_inputs()
        self.manifests = {name: self._read_teacher(name) for name in teachers}
        self.layout = PackedLayout({k: m.tensors for k, m in self.manifests.items()})
        offsets: dict[str, list[int]] = {name: [] for name in teachers}
        for entry in self.layout.entries:
            offsets[entry.teacher].append(entry.offset)
        # The inputs come last: a packed row consists of the folders before them.
        self._folders = [
            _Folder(teacher_folder(root, name), self.manifests[name], offsets[name])
            for name in teachers
        ]
        self._folders.append(_Folder(inputs_folder(root), self.inputs, [0]))
        parts = max(folder.manifest.num_parts for folder in self._folders)
        shape = (len(self._folders), self.num_views, parts)
        self._verified = _share(torch.zeros(shape, dtype=torch.bool))
        self._reset()

    @property
    def num_samples(self) -> int:
        """Number of samples of the data set."""
        return self.inputs.dataset.num_samples

    @property
    def num_views(self) -> int:
        """Number of views V."""
        return self.inputs.views.num_views

    def _read_inputs(self) -> Manifest:
        if not osp.isdir(self.root):
            raise InputError(
                f'The store of teacher outputs "{self.root}" does not exist. Set the folder that '
                'the outputs were written to.'
            )
        manifest = Manifest.read(inputs_folder(self.root))
        if manifest.teacher is not None:
            raise InputError(
                f'"{inputs_folder(self.root)}" holds outputs of {manifest.role}, not the checksums '
                'of the inputs. Restore that folder.'
            )
        return manifest

    def _read_teacher(self, name: str) -> Manifest:
        folder = teacher_folder(self.root, name)
        if not osp.isdir(folder):
            raise InputError(
                f'The store "{self.root}" holds no outputs of teacher "{name}". '
                f'{near_matches(name, list_teachers(self.root))}'
            )
        manifest = Manifest.read(folder)
        if manifest.teacher is None or manifest.teacher.name != name:
            raise InputError(
                f'"{folder}" holds outputs of {manifest.role}, not of teacher "{name}". Give that '
                'folder its name back.'
            )
        mine, inputs = (manifest.dataset, manifest.views), (self.inputs.dataset, self.inputs.views)
        if mine != inputs:
            raise InputError(
                f'The outputs in "{folder}" were stored for other inputs (data set, pipeline, '
                f'seeds or number of views) than those in "{inputs_folder(self.root)}". Remove '
                'that folder, and store this teacher again.'
            )
        if manifest.basis_sha256 is not None:
            read_basis(folder, manifest.basis_sha256)
        return manifest

    def check(self, expected: Mapping[str, Manifest]) -> list[str]:
        """Make sure that the store holds what a training needs.

        Args:
            expected (Mapping[str, Manifest]): What the training would store for
                each of its teachers. Tensors and part sizes may differ.

        Returns:
            list[str]: A sentence about each library of another version.

        Raises:
            InputError: If the outputs are others. The message names the first
                difference.
        """
        warnings: dict[str, None] = {}
        for name, manifest in expected.items():
            if name not in self.manifests:
                raise InputError(f'This reader does not read teacher "{name}".')
            folder = teacher_folder(self.root, name)
            warnings.update(dict.fromkeys(self.manifests[name].check(manifest, folder)))
        return list(warnings)

    def missing(self, view: int) -> list[str]:
        """Paths of the parts of a view that do not exist, of all teachers and the inputs."""
        return [
            part_path(folder.path, view, part)
            for folder in self._folders
            for part in missing_parts(folder.path, folder.manifest, view)
        ]

    def is_stored(self, sample: int, view: int) -> bool:
        """Whether all teachers' outputs for a sample exist; parts may be added meanwhile.

        Args:
            sample (int): Number of the sample.
            view (int): Number of the view.
        """
        for number, folder in enumerate(self._folders):
            key = (number, view, sample // folder.part_size)
            if key not in self._opened and key not in self._headers:
                if not osp.exists(part_path(folder.path, view, key[2])):
                    return False
        return True

    def check_complete(self, views: Iterable[int] | None = None) -> None:
        """Make sure that no part is missing.

        Args:
            views (Iterable[int], optional): Numbers of the views. Defaults to
                None: all.

        Raises:
            InputError: If one is. The message names the first.
        """
        for view in range(self.num_views) if views is None else views:
            missing = self.missing(view)
            if missing:
                raise missing_part(missing[0])

    def read_bases(self) -> dict[str, dict[str, np.ndarray]]:
        """Read the bases of projected maps.

        Returns:
            dict[str, dict[str, np.ndarray]]: By teacher, without those that have
            none.

        Raises:
            InputError: If a file is missing, damaged or another one.
        """
        return {
            name: read_basis(teacher_folder(self.root, name), manifest.basis_sha256)
            for name, manifest in self.manifests.items()
            if manifest.basis_sha256 is not None
        }

    def read_packed(self, samples: Sequence[int], view: int | Sequence[int]) -> np.ndarray:
        """Read all teachers' tensors of samples, packed.

        Args:
            samples (Sequence[int]): Numbers of B samples.
            view (int | Sequence[int]): Number of the view, of all or of each.

        Returns:
            np.ndarray: Shape (B, ``layout.nbytes``), uint8.

        Raises:
            InputError: If there is no such sample or view, or a part is
                missing, damaged, or another one.
        """
        # Bytes between tensors must not differ from one reading to the next.
        allocate = np.zeros if self.layout.has_padding else np.empty
        packed = allocate((len(samples), self.layout.nbytes), np.uint8)
        self._read(range(len(self._folders) - 1), samples, view, packed)
        return packed

    def read_rows(
        self, samples: Sequence[int], view: int | Sequence[int]
    ) -> dict[str, dict[str, np.ndarray]]:
        """Read all teachers' tensors of samples.

        Args:
            samples (Sequence[int]): Numbers of B samples.
            view (int | Sequence[int]): Number of the view, of all or of each.

        Returns:
            dict[str, dict[str, np.ndarray]]: For each teacher its tensors by
            name, each of shape (B, *shape).

        Raises:
            InputError: As for :meth:`read_packed`.
        """
        return self.layout.unpack_numpy(self.read_packed(samples, view))

    def read_checksums(self, samples: Sequence[int], view: int | Sequence[int]) -> np.ndarray:
        """Read the checksums of the pixels of samples.

        Args:
            samples (Sequence[int]): Numbers of B samples.
            view (int | Sequence[int]): Number of the view, of all or of each.

        Returns:
            np.ndarray: The crc32 of each, shape (B,), uint32.

        Raises:
            InputError: As for :meth:`read_packed`.
        """
        checksums = np.empty((len(samples), 4), np.uint8)
        self._read([len(self._folders) - 1], samples, view, checksums)
        return checksums.view(np.uint32)[:, 0]

    def close(self) -> None:
        """Close all files; the next reading opens them again."""
        with self._lock:
            self._close_all()

    def _close_all(self) -> None:
        for opened in self._opened.values():
            os.close(opened.handle)
        self._opened.clear()

    def _read(
        self,
        folders: Iterable[int],
        samples: Sequence[int],
        view: int | Sequence[int],
        out: np.ndarray,
    ) -> None:
        """Read rows of some folders to their positions in ``out``, shape (B, bytes)."""
        keys = self._check_keys(samples, view)
        if not keys:
            return
        memory, stride = out.reshape(-1).data, out.shape[1]
        if self._pid != os.getpid():
            # A thread of the parent may have held the lock in the moment of the fork.
            self._lock, self._pid = threading.Lock(), os.getpid()
        with self._lock:
            self._pending.clear()
            for number in folders:
                part_size = self._folders[number].part_size
                start = 0
                for sample, of_view in keys:
                    part, row = divmod(sample, part_size)
                    key = (number, of_view, part)
                    opened = self._opened.get(key)
                    if opened is None:
                        opened = self._open(key)
                    else:
                        self._opened.move_to_end(key)
                    for begin, end, nbytes, position in opened.reads:
                        self._read_row(
                            opened.handle,
                            memory[start + begin : start + end],
                            position + row * nbytes,
                            opened.path,
                        )
                    start += stride
            self._finish()

    def _check_keys(
        self, samples: Sequence[int], view: int | Sequence[int]
    ) -> list[tuple[int, int]]:
        indices = [int(sample) for sample in samples]
        if isinstance(view, (int, np.integer)):
            views = [int(view)] * len(indices)
        else:
            views = [int(v) for v in view]
        if len(views) != len(indices):
            raise InputError(f'{len(indices)} samples were given with {len(views)} views.')
        if indices and not 0 <= min(indices) <= max(indices) < self.num_samples:
            bad = next(i for i in indices if not 0 <= i < self.num_samples)
            raise InputError(
                f'The store "{self.root}" has no sample {bad}: there are {self.num_samples}, '
                'from 0.'
            )
        if views and not 0 <= min(views) <= max(views) < self.num_views:
            bad = next(v for v in views if not 0 <= v < self.num_views)
            raise InputError(
                f'The store "{self.root}" has no view {bad}: there are {self.num_views}, from 0.'
            )
        return list(zip(indices, views))

    def _read_row(self, handle: int, target: memoryview, position: int, path: str) -> None:
        """Read what is in the page cache; leave the rest to :meth:`_finish`."""
        if self._use_nowait and not self._pending:
            try:
                if os.preadv(handle, [target], position, _NOWAIT) == len(target):
                    return
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise InputError(_unreadable(path, error)) from error
                self._use_nowait = False
        # From the first miss on, the rest of the call is requested before any of it is awaited.
        with suppress(OSError):
            os.posix_fadvise(handle, position, len(target), os.POSIX_FADV_WILLNEED)
        self._pending.append((handle, target, position, path))

    def _finish(self) -> None:
        """Read what was not in the page cache."""
        for handle, target, position, path in self._pending:
            done = 0
            while done < len(target):
                try:
                    count = os.preadv(handle, [target[done:]], position + done)
                except OSError as error:
                    raise InputError(_unreadable(path, error)) from error
                if not count:
                    raise truncated_part(path)
                done += count
        self._pending.clear()

    def _open(self, key: tuple[int, int, int]) -> _OpenPart:
        """Open and check a part, after closing another one if there are too many."""
        number, view, part = key
        folder = self._folders[number]
        path = part_path(folder.path, view, part)
        if len(self._opened) >= self.max_open_files:
            self._close_oldest(1)
        handle = self._open_file(path)
        try:
            header = self._headers.get(key)
            if header is None:
                header = read_header(handle, path, folder.manifest, view, part)
            if self.verify and not self._verified[key]:
                verify_part(handle, path, folder.manifest, header)
                self._verified[key] = True
        except BaseException:
            os.close(handle)
            raise
        self._headers[key] = header
        opened = self._opened[key] = _OpenPart(handle, path, folder, header)
        return opened

    def _open_file(self, path: str) -> int:
        while True:
            try:
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                break
            except FileNotFoundError as error:
                raise missing_part(path) from error
            except OSError as error:
                if error.errno not in _TOO_MANY_FILES or not self._opened:
                    raise InputError(_unreadable(path, error)) from error
                self._close_oldest(-(-len(self._opened) // 2))
        return handle

    def _close_oldest(self, count: int) -> None:
        self._finish()  # it may need them
        for _ in range(count):
            os.close(self._opened.popitem(last=False)[1].handle)

    def _reset(self) -> None:
        self._opened: OrderedDict[tuple[int, int, int], _OpenPart] = OrderedDict()
        self._headers: dict[tuple[int, int, int], PartHeader] = {}
        self._pending: list[_Read] = []
        self._use_nowait = bool(_NOWAIT)
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out open files and caches."""
        local = ('_opened', '_headers', '_pending', '_use_nowait', '_lock', '_pid')
        return {key: value for key, value in self.__dict__.items() if key not in local}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore without open files."""
        self.__dict__.update(state)
        self._reset()

    def __del__(self) -> None:
        """Close all files."""
        if '_opened' in self.__dict__:  # not if __init__ has failed
            self._close_all()


def _unreadable(path: str, error: OSError) -> str:
    return f'"{path}" cannot be read: {error.strerror or error}.'


def _share(tensor: Tensor) -> Tensor:
    """Move a tensor to shared memory, where there is any."""
    try:
        return tensor.share_memory_()
    except (OSError, RuntimeError):
        return tensor


def _default_open_files() -> int:
    try:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except (ImportError, OSError, ValueError):
        return 64
    return 1024 if soft == -1 else max(1, min(1024, soft // 4))
