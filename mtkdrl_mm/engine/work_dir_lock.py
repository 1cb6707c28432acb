# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Lock of a work dir."""

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
    """Exclusive lock that prevents two trainings, or two comparisons, in one work dir.

    The file ``.lock`` in the work dir holds host, process and start time of the
    training that has the lock. It is a lock of the operating system, which ends
    with its process in any case: a file that is left over blocks nothing. On a
    file system without locks, the contents of the file decide: the work dir is
    locked while a process of this host with the recorded number exists.

    Args:
        work_dir (str): An existing folder.
        user (str): What works there, for the message. Defaults to "training".
    """

    def __init__(self, work_dir: str, user: str = 'training') -> None:
        self.path = osp.join(work_dir, '.lock')
        self.user = user
        self._handle: int | None = None

    def acquire(self) -> None:
        """Acquire the lock.

        Raises:
            InputError: If another process holds the lock.
        """
        while self._handle is None:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                # A record lock: data workers do not inherit it, unlike a lock of flock.
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

    def is_held_elsewhere(self) -> bool:
        """Whether another process holds the lock. Nothing is changed by asking."""
        if self._handle is not None:
            return False
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            os.lockf(handle, os.F_TEST, 0)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return True
            if error.errno not in _UNSUPPORTED:
                raise
            return _is_of_another(self._read(handle))
        finally:
            os.close(handle)
        return False

    def release(self) -> None:
        """Release the lock and remove the file."""
        if self._handle is None:
            return
        with suppress(OSError):
            os.remove(self.path)
        with suppress(OSError):
            os.close(self._handle)
        self._handle = None

    def __enter__(self) -> 'WorkDirLock':
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _is_current(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _acquire_without_locks(self, holder: dict[str, Any]) -> None:
        if _is_of_another(holder):
            raise InputError(self._refusal(holder))
        print_log(
            f'The file system of "{osp.dirname(self.path)}" has no locks: two simultaneous '
            f'{self.user}s in this work dir would not be detected.',
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
        # The text is for messages only: a full disk must not end the training here.
        with suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(content).encode(), 0)

    def _refusal(self, holder: dict[str, Any]) -> str:
        owner = 'another process'
        if holder:
            owner = (
                f'process {holder.get("pid")} on {holder.get("host")}, '
                f'started {holder.get("started")}'
            )
        return (
            f'The work dir "{osp.dirname(self.path)}" is in use by another {self.user} ({owner}), '
            'and two would overwrite each other. Wait for it, stop it, or set another --work-dir '
            'for this one.'
        )


def _is_of_another(holder: dict[str, Any]) -> bool:
    """Whether another process of this host, which is alive, has written the file."""
    here = holder.get('host') == socket.gethostname()
    return here and holder.get('pid') != os.getpid() and _is_alive(holder.get('pid'))


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
