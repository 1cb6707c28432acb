# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""One training per work dir."""

import errno
import fcntl
import json
import os
import os.path as osp
import socket
import time
from contextlib import suppress
from typing import Any

from mmengine.logging import print_log

from mtkdrl_mm.utils import InputError

_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


class WorkDirLock:
    """Keeps two trainings from overwriting each other's files.

    The file ``.lock`` in the work dir names host, process and start of the
    training that holds it. The lock itself is one of the operating system, so
    that it ends with its process, however that ends: a file that is left over is no
    obstacle. Where the file system has no locks, the file's contents decide:
    a process of this host that is still alive keeps others out.

    Args:
        work_dir (str): An existing folder.
    """

    def __init__(self, work_dir: str) -> None:
        self.path = osp.join(work_dir, '.lock')
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            InputError: If another training holds it.
        """
        while self._handle is None:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                # A record lock: in contrast to flock's, data workers do not inherit it.
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = self._read(handle)
                os.close(handle)
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise InputError(self._refusal(holder)) from None
                if error.errno not in _UNSUPPORTED:
                    raise
                self._acquire_without_locks(holder)
                return
            if self._is_current(handle):
                self._handle = handle
            else:
                os.close(handle)  # removed by its holder between opening and locking
        self._write(self._handle)

    def release(self) -> None:
        """Give the lock back and remove the file."""
        if self._handle is None:
            return
        with suppress(OSError):
            os.remove(self.path)
        with suppress(OSError):
            os.close(self._handle)
        self._handle = None

    def _is_current(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _acquire_without_locks(self, holder: dict[str, Any]) -> None:
        here = holder.get('host') == socket.gethostname()
        if here and holder.get('pid') != os.getpid() and _is_alive(holder.get('pid')):
            raise InputError(self._refusal(holder))
        print_log(
            f'The file system of "{osp.dirname(self.path)}" has no locks: two trainings in this '
            'work dir at once would not be noticed.',
            'current',
        )
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        self._write(handle)
        self._handle = handle

    @staticmethod
    def _read(handle: int) -> dict[str, Any]:
        try:
            content = json.loads(os.pread(handle, 4096, 0))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    @staticmethod
    def _write(handle: int) -> None:
        content = dict(
            host=socket.gethostname(),
            pid=os.getpid(),
            started=time.strftime('%Y-%m-%d %H:%M:%S'),
        )
        # The lock matters, not the text: a full disk is no reason to stop here.
        with suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(content).encode(), 0)

    def _refusal(self, holder: dict[str, Any]) -> str:
        who = 'another process'
        if holder:
            who = (
                f'process {holder.get("pid")} on {holder.get("host")}, '
                f'started {holder.get("started")}'
            )
        return (
            f'The work dir "{osp.dirname(self.path)}" is in use by another training ({who}), and '
            'two would overwrite each other. Wait for it, end it, or give this one another '
            '--work-dir.'
        )


def _is_alive(pid: Any) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
