# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Names of the files and folders of a store."""

import hashlib
import os
import os.path as osp
import re
import secrets
import socket
import time
from contextlib import suppress
from urllib.parse import quote

from mtkdrl_mm.utils.class_names import is_hidden
from mtkdrl_mm.utils.errors import InputError, summarise
from mtkdrl_mm.utils.files import PARTIAL_SUFFIX

#: Folder of the checksums of the inputs, beside those of the teachers.
INPUTS = 'inputs'
#: Folder of the rows that trainings have computed, until parts are made of them.
JOURNALS = 'journals'
#: Folder of the store of the agent's held-out images, within that of the training data.
HELD_OUT = 'held_out'
MANIFEST = 'manifest.json'
BASIS = 'basis.safetensors'
#: Age in seconds of a temporary file that no process writes any more.
LEFTOVER_AGE = 24 * 3600
# File systems allow 255 bytes per name.
_MAX_NAME = 150
_PARTIAL = re.compile(rf'\.(?P<host>[\w%-]+)\.(?P<pid>\d+)\.[0-9a-f]+{re.escape(PARTIAL_SUFFIX)}$')


def inputs_folder(root: str) -> str:
    """Path of the folder with the checksums of the inputs."""
    return osp.join(root, INPUTS)


def held_out_root(root: str) -> str:
    """Path of the store of the agent's held-out images, within another store."""
    return osp.join(root, HELD_OUT)


def check_store_folder(root: str) -> None:
    """Check that a folder may become a store: that it is one, is empty, or does not exist.

    Args:
        root (str): The folder.

    Raises:
        InputError: If it holds something else, such as a training.
    """
    if not osp.isdir(root):
        return
    names = [name for name in os.listdir(root) if not is_hidden(name)]
    if any(osp.isfile(osp.join(root, name, file)) for name in names for file in (MANIFEST, BASIS)):
        return
    # A process that was killed at the start has made the first folder, and nothing in it.
    if others := sorted(name for name in names if name not in (INPUTS, HELD_OUT)):
        raise InputError(
            f'"{root}" is no store of teacher outputs, but holds {summarise(others)}. Give a '
            'folder that is empty or does not exist yet.'
        )


def teacher_folder(root: str, name: str) -> str:
    """Path of a teacher's folder.

    Args:
        root (str): The store.
        name (str): The teacher's name. Letters, digits, ``-``, ``_``, ``.`` and
            ``~`` are kept; other bytes are percent-encoded, and long names are
            shortened.

    Returns:
        str: The path; another one for every name.

    Raises:
        InputError: If the name is empty.

    Example:
        >>> from mtkdrl_mm.teacher_outputs import teacher_folder
        >>> teacher_folder('store', 'timm/vit_small')
        'store/timm%2Fvit_small'
    """
    if not name:
        raise InputError('A teacher whose outputs are stored needs a name, but it is empty.')
    safe = quote(name, safe='')
    if safe.startswith('.') or safe.lower() in (INPUTS, JOURNALS, HELD_OUT):
        safe = f'%{ord(safe[0]):02X}{safe[1:]}'
    if len(safe) > _MAX_NAME:
        safe = f'{safe[:_MAX_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}'
    return osp.join(root, safe)


def view_folder(folder: str, view: int) -> str:
    """Path of a view's folder in the folder of a teacher or the inputs."""
    return osp.join(folder, f'view_{view:03d}')


def part_path(folder: str, view: int, part: int) -> str:
    """Path of a part in the folder of a teacher or the inputs."""
    return osp.join(view_folder(folder, view), part_name(part))


def part_name(part: int) -> str:
    """Name of a part in its view's folder."""
    return f'part_{part:04d}.safetensors'


def partial_path(path: str) -> str:
    """Temporary name for writing a file, which no other process or thread uses."""
    host = quote(socket.gethostname(), safe='').replace('.', '-')
    return f'{path}.{host}.{os.getpid()}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}'


def remove_leftovers(folder: str) -> int:
    """Remove temporary files of killed processes.

    These are files of processes of this host that do not exist any more, and
    files of any host that are older than :data:`LEFTOVER_AGE`.

    Args:
        folder (str): Folder to clean, without subfolders.

    Returns:
        int: Number of removed files. Files that cannot be removed are kept.
    """
    count = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if is_abandoned(entry.path):
                    os.remove(entry.path)
                    count += 1
    return count


def is_abandoned(path: str) -> bool:
    """Whether the process that wrote a temporary file has ended.

    Args:
        path (str): With a name from :func:`partial_path`. Of other hosts'
            processes, those whose file is older than :data:`LEFTOVER_AGE` count
            as ended.

    Returns:
        bool: False for files with other names.

    Raises:
        OSError: If the file does not exist.
    """
    match = _PARTIAL.search(path)
    if match is None:
        return False
    return _is_dead(match) or time.time() - os.stat(path).st_mtime > LEFTOVER_AGE


def _is_dead(match: 're.Match[str]') -> bool:
    """Whether the process of a temporary name was one of this host, and has ended."""
    if match['host'] != quote(socket.gethostname(), safe='').replace('.', '-'):
        return False
    try:
        os.kill(int(match['pid']), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
