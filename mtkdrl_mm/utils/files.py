# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Atomic writing of files, and checks of where to."""

import errno
import json
import os
import os.path as osp
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from .errors import InputError

#: Suffix of a file that is being written.
PARTIAL_SUFFIX = '.tmp'
#: Errors of the storage medium, not of the program: the same write may succeed later.
MEDIUM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)
#: Errors of a path where something else is than is needed, with words for them.
PLACE_ERRORS = {
    errno.EEXIST: 'exists already',
    errno.EISDIR: 'is a folder, where a file is needed',
    errno.ENOTDIR: 'is a file or lies in one, where a folder is needed',
}
# What os.link raises on file systems without hard links.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def check_output_folder(name: str, path: str) -> None:
    """Check, before any work, that a folder can be written to, or made.

    Args:
        name (str): The flag or config key, for the message.
        path (str): The folder.

    Raises:
        InputError: If a file is in its place or above it, or it cannot be
            written to.
    """
    found = osp.abspath(path)
    while not osp.lexists(found):
        found = osp.dirname(found)
    if not osp.isdir(found):
        inside = '' if found == osp.abspath(path) else f', because "{found}" is none'
        raise InputError(f'{name}: "{path}" cannot be a folder{inside}. Give another one.')
    if not os.access(found, os.W_OK | os.X_OK):
        raise InputError(
            f'{name}: the folder "{found}" cannot be written to: it is read-only, or belongs to '
            'somebody else. Give another one.'
        )


def check_output_file(name: str, path: str | None) -> None:
    """Check, before any work, that a file can be written, and make its folder.

    Args:
        name (str): The flag, for the message.
        path (str, optional): The file; nothing is checked without one.

    Raises:
        InputError: If it is a folder, or cannot be written in its folder.
    """
    if not path:
        return
    if path.endswith(os.sep) or osp.isdir(path):
        raise InputError(f'{name} takes a file, but "{path}" is a folder: add a name.')
    folder = osp.dirname(path) or '.'
    check_output_folder(name, folder)
    os.makedirs(folder, exist_ok=True)


def sync_folder(path: str) -> None:
    """Flush the entries of a folder to the disk, if the file system supports it."""
    with suppress(OSError):
        handle = os.open(path or '.', os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace_file(partial: str, path: str) -> None:
    """Rename a complete file atomically, replacing an existing one.

    Args:
        partial (str): Path of the complete file, in the same folder.
        path (str): The new path.

    Raises:
        OSError: If the file cannot be written. ``path`` is then unchanged.
    """
    handle = os.open(partial, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(partial, path)
    sync_folder(osp.dirname(path))


@contextmanager
def replacing_file(partial: str, path: str) -> Iterator[None]:
    """Let a library write a file atomically, under a temporary name.

    Args:
        partial (str): The temporary path, in the same folder. At the end the complete file
            is there, or nothing after an error.
        path (str): Path of the file; an existing one is replaced.

    Raises:
        OSError: If the file cannot be written. ``path`` is then unchanged.
    """
    try:
        yield
        replace_file(partial, path)
    except BaseException as error:
        with suppress(OSError):
            os.remove(partial)
        # A failing write or close does not say of which file.
        if isinstance(error, OSError) and error.errno in MEDIUM_ERRORS and error.filename is None:
            error.filename = path
        raise


@contextmanager
def atomic_write(
    path: str | os.PathLike, mode: str = 'w', partial: str | None = None, **kwargs: Any
) -> Iterator[IO]:
    """Write a file atomically: it gets its name only when it is complete.

    Args:
        path (str | PathLike): Path of the file; an existing one is replaced.
        mode (str): 'w' or 'wb'. Defaults to 'w'.
        partial (str, optional): Temporary path in the same folder. Processes that write the same
            file need different ones. Defaults to None: ``path`` with :data:`PARTIAL_SUFFIX`.
        **kwargs: Further arguments of ``open``.

    Yields:
        IO: The open file, under a temporary name in the same folder.

    Raises:
        OSError: If the file cannot be written. ``path`` is then unchanged.

    Example:
        >>> with atomic_write('result.json') as file:
        ...     _ = file.write('{}')
    """
    path = os.fspath(path)
    partial = path + PARTIAL_SUFFIX if partial is None else partial
    with replacing_file(partial, path), open(partial, mode, **kwargs) as file:
        yield file


def create_file(path: str | os.PathLike, content: bytes, partial: str) -> bool:
    """Write a file atomically, unless it exists.

    Of several processes that create the same file, on any machines, one succeeds.

    Args:
        path (str | PathLike): Path of the file.
        content (bytes): Its contents.
        partial (str): Temporary path in the same folder, of this process only.

    Returns:
        bool: False if the file existed, and was left as it is.

    Raises:
        OSError: If the file cannot be written. Nothing is left of it then.
    """
    path = os.fspath(path)
    try:
        with open(partial, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if osp.exists(path):
                return False
            os.replace(partial, path)
        sync_folder(osp.dirname(path))
        return True
    finally:
        with suppress(OSError):
            os.remove(partial)


def write_json(content: Any, path: str | os.PathLike, **kwargs: Any) -> None:
    """Write a JSON file atomically.

    Args:
        content (Any): Data for ``json.dump``.
        path (str | PathLike): Path of the file.
        **kwargs: Arguments of ``json.dump``.
    """
    with atomic_write(path) as file:
        json.dump(content, file, **kwargs)


def describe_medium_error(error: OSError, path: str) -> str:
    """Format the reason why a file could not be written.

    Args:
        error (OSError): The error of the operating system.
        path (str): The file or folder.

    Returns:
        str: For example ``"runs/a.pth" cannot be written: No space left on device (0.1 MiB free
        on that disk)``.
    """
    free = ''
    folder = osp.abspath(path)
    while not osp.isdir(folder) and folder != osp.dirname(folder):
        folder = osp.dirname(folder)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with suppress(OSError):
            free = f' ({shutil.disk_usage(folder).free / 2**20:.1f} MiB free on that disk)'
    return f'"{path}" cannot be written: {error.strerror or error}{free}'
