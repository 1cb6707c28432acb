# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Reading and writing of data sets as folders of images with lists of labels."""

import lzma
import os
import os.path as osp
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .errors import InputError
from .files import atomic_write

# What an archive that is truncated or no archive at all raises.
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError)


@contextmanager
def open_source(source: str, member: str) -> Iterator[str]:
    """Find a data set in a folder or in an archive, which is unpacked for the time being.

    Args:
        source (str): A folder, or a tar or zip archive.
        member (str): Path of a folder in the data set, by which it is found,
            also one level below ``source``.

    Yields:
        str: The folder that contains ``member``; that of ``source`` if there is
        none.

    Raises:
        InputError: If the source does not exist, or is no intact archive.
    """
    if not osp.exists(source):
        raise InputError(f'The source "{source}" does not exist.')
    if osp.isdir(source):
        yield _find(source, member)
        return
    with tempfile.TemporaryDirectory() as scratch:
        try:
            if zipfile.is_zipfile(source):
                with zipfile.ZipFile(source) as archive:
                    archive.extractall(scratch)
            else:
                with tarfile.open(source) as archive:
                    archive.extractall(scratch, filter='data')
        except _DAMAGED as error:
            raise InputError(
                f'"{source}" is no tar or zip archive, or is damaged: {error}'
            ) from error
        yield _find(scratch, member)


def _find(root: str, member: str) -> str:
    candidates = [root, *sorted(entry.path for entry in os.scandir(root) if entry.is_dir())]
    return next((path for path in candidates if osp.isdir(osp.join(path, member))), root)


@contextmanager
def new_folder(path: str) -> Iterator[str]:
    """Write a folder that gets its name only when it is complete.

    Args:
        path (str): The folder, which must not exist.

    Yields:
        str: An empty folder to write to, beside it.

    Raises:
        InputError: If ``path`` exists.
    """
    path = path.rstrip('/') or path
    if osp.exists(path):
        raise InputError(f'"{path}" exists. Remove it, or choose another folder.')
    part = f'{path}.part'
    shutil.rmtree(part, ignore_errors=True)
    try:
        os.makedirs(part)
        yield part
        os.replace(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def write_labels(path: str, rows: Sequence[tuple[str, int]]) -> None:
    """Write a list of labels as mmpretrain's ``ann_file``, one ``PATH LABEL`` per line.

    Args:
        path (str): The file.
        rows (Sequence[tuple[str, int]]): Paths of images and their labels.
    """
    with atomic_write(path) as file:
        file.writelines(f'{name} {label}\n' for name, label in rows)
