# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Rows that a training has computed, in the order of its batches, until parts are made of them."""

import hashlib
import os
import os.path as osp
import re
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

import numpy as np

from mtkdrl_mm.utils.errors import InputError
from mtkdrl_mm.utils.files import describe_medium_error

from .paths import JOURNALS, is_abandoned, partial_path

# Bytes that are read at once.
_CHUNK = 2**22


@dataclass
class _OpenJournal:
    """A file that is read, and the number of records of it that are known."""

    file: IO[bytes]
    count: int = 0


class ViewJournal:
    """Rows of one view, of all processes that fill a store while they train.

    Trainings see images in random order, but a part is a range of samples. So
    every process appends its rows to a file of its own; when the view is
    complete, parts are made of the rows of all files. A killed process loses
    nothing but its last rows. Each row has a checksum, so that files of
    processes that are still writing, or were killed, can be read. Files that
    another training removes meanwhile can be read to the end.

    Args:
        root (str): The store.
        view (int): Number of the view.
        row_bytes (int): Bytes per row.
        identities (Sequence[str]): Digests of all that the rows depend on, such
            as those of the teachers in their order. Files of others are ignored.
    """

    def __init__(self, root: str, view: int, row_bytes: int, identities: Sequence[str]) -> None:
        self.folder = osp.join(root, JOURNALS)
        self.view = view
        digest = hashlib.sha256('\n'.join(identities).encode()).hexdigest()
        self._stem = f'view_{view:03d}.{digest[:16]}'
        self._record = np.dtype(
            [('sample', '<u4'), ('crc32', '<u4'), ('check', '<u4'), ('row', 'u1', (row_bytes,))]
        )
        self._path: str | None = None
        self._opened: dict[str, _OpenJournal] = {}
        self._index: dict[int, tuple[str, int]] = {}

    def append(self, samples: Sequence[int], crc32: Sequence[int], rows: np.ndarray) -> None:
        """Append rows to this process's file.

        Args:
            samples (Sequence[int]): Numbers of the B samples.
            crc32 (Sequence[int]): Checksums of their pixels.
            rows (np.ndarray): Shape (B, row_bytes), uint8.

        Raises:
            InputError: If the file cannot be written.
        """
        records = np.zeros(len(rows), self._record)
        records['sample'], records['crc32'], records['row'] = samples, crc32, rows
        records['check'] = [_checksum(record) for record in records]
        if self._path is None:
            self._path = partial_path(osp.join(self.folder, self._stem))
        try:
            try:
                self._append(records.tobytes())
            except FileNotFoundError:
                # Another training has just removed the folder, which was empty.
                self._append(records.tobytes())
        except OSError as error:
            raise InputError(describe_medium_error(error, self._path) + '.') from error

    def _append(self, content: bytes) -> None:
        assert self._path is not None
        os.makedirs(self.folder, exist_ok=True)
        with open(self._path, 'ab') as file:
            end = file.tell()
            # After a full disk the file may end in the middle of a record.
            if end % self._record.itemsize:
                file.truncate(end - end % self._record.itemsize)
            file.write(content)

    def load(self) -> None:
        """Find the rows in the files of all processes, besides those that were found before."""
        for path in self._files():
            with suppress(OSError):
                if path not in self._opened:
                    self._opened[path] = _OpenJournal(open(path, 'rb'))
                self._scan(path, self._opened[path])

    def _scan(self, path: str, opened: _OpenJournal) -> None:
        size = self._record.itemsize
        at_once = max(1, _CHUNK // size)
        while True:
            content = os.pread(opened.file.fileno(), at_once * size, opened.count * size)
            records = np.frombuffer(content[: len(content) // size * size], self._record)
            if not len(records):
                return
            for number, record in enumerate(records, opened.count):
                if _checksum(record) == record['check']:
                    self._index.setdefault(int(record['sample']), (path, number))
            opened.count += len(records)

    def missing(self, samples: Iterable[int]) -> list[int]:
        """Those of some samples that were not found by :meth:`load`."""
        return [sample for sample in samples if sample not in self._index]

    def read(self, samples: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Read rows that :meth:`load` has found.

        Args:
            samples (Sequence[int]): Numbers of B samples.

        Returns:
            tuple[np.ndarray, np.ndarray]: Checksums of the pixels (B,), uint32,
            and rows (B, row_bytes), uint8.

        Raises:
            InputError: If a row was not found, or a file cannot be read any
                more.
        """
        absent = self.missing(samples)
        if absent:
            raise InputError(
                f'The journals in "{self.folder}" hold no whole row of sample {absent[0]} in view '
                f'{self.view}, though it was written: they were damaged or removed.'
            )
        found = np.zeros(len(samples), self._record)
        size = self._record.itemsize
        for position, sample in enumerate(samples):
            path, number = self._index[sample]
            try:
                content = os.pread(self._opened[path].file.fileno(), size, number * size)
            except OSError as error:
                raise InputError(f'"{path}" cannot be read: {error.strerror or error}.') from error
            if len(content) < size:
                raise InputError(f'"{path}" was truncated while it was read.')
            found[position] = np.frombuffer(content, self._record)[0]
        return found['crc32'].astype(np.uint32), found['row']

    def remove(self) -> None:
        """Remove this process's file, and those of processes that have ended."""
        for opened in self._opened.values():
            opened.file.close()
        self._opened, self._index = {}, {}
        for path in self._files():
            with suppress(OSError):  # others remove them as well
                if path == self._path or is_abandoned(path):
                    os.remove(path)
        self._path = None
        with suppress(OSError):
            os.rmdir(self.folder)  # if it is empty

    def _files(self) -> list[str]:
        pattern = re.compile(re.escape(self._stem) + r'\.')
        with suppress(OSError):
            names = sorted(name for name in os.listdir(self.folder) if pattern.match(name))
            return [osp.join(self.folder, name) for name in names]
        return []


def _checksum(record: np.void) -> int:
    head = zlib.crc32(np.array([record['sample'], record['crc32']], '<u4').tobytes())
    return zlib.crc32(record['row'].tobytes(), head)
