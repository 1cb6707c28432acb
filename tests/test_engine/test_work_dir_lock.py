# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""One training per work dir; what is left over of a dead one is no obstacle."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress

import pytest

from mtkdrl_mm.engine.work_dir_lock import WorkDirLock
from mtkdrl_mm.utils import InputError

HOLD = """
import sys, time
from mtkdrl_mm.engine.work_dir_lock import WorkDirLock
WorkDirLock(sys.argv[1]).acquire()
if len(sys.argv) > 2:
    import os
    if os.fork() == 0:  # a data worker, which outlives its parent for a while
        time.sleep(60)
print('held', flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Function that starts another process which holds the lock."""
    processes = []

    def start(*flags):
        process = subprocess.Popen(
            [sys.executable, '-c', HOLD, str(tmp_path), *flags],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        assert process.stdout.readline() == 'held\n'
        return process

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_second_training_is_refused_and_told_who_holds_it(tmp_path, holder):
    process = holder()
    expected = (
        f'work dir "{tmp_path}" is in use by another training \\(process {process.pid} on '
        f'{socket.gethostname()}, started 20.*another --work-dir'
    )
    with pytest.raises(InputError, match=expected):
        WorkDirLock(str(tmp_path)).acquire()


def test_a_comparison_is_told_of_another_one(tmp_path, holder):
    holder()
    with pytest.raises(InputError, match=r'in use by another comparison \(process'):
        WorkDirLock(str(tmp_path), 'comparison').acquire()


def test_asking_takes_no_lock(tmp_path, holder, monkeypatch):
    lock = WorkDirLock(str(tmp_path))
    assert not lock.is_held_elsewhere() and os.listdir(tmp_path) == []
    process = holder()
    assert lock.is_held_elsewhere() and lock.is_held_elsewhere()

    def unsupported(*args):
        raise OSError(errno.ENOLCK, 'No locks available')

    with monkeypatch.context() as patch:  # then the process in the file decides
        patch.setattr(os, 'lockf', unsupported)
        assert lock.is_held_elsewhere()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not lock.is_held_elsewhere()
    assert (tmp_path / '.lock').exists() and not lock.is_held_elsewhere()
    with lock:
        # Closing a file of the lock that this process holds would release it.
        assert not lock.is_held_elsewhere()
        probe = 'import os, sys; os.lockf(os.open(sys.argv[1], os.O_RDONLY), os.F_TEST, 0)'
        command = [sys.executable, '-c', probe, lock.path]
        assert b'PermissionError' in subprocess.run(command, stderr=subprocess.PIPE).stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('flags', [(), ('worker',)])
def test_the_lock_of_a_killed_training_is_taken_over(tmp_path, holder, flags):
    process = holder(*flags)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads((tmp_path / '.lock').read_text())['pid'] == process.pid
    WorkDirLock(str(tmp_path)).acquire()
    assert json.loads((tmp_path / '.lock').read_text())['pid'] == os.getpid()


def test_released_means_free_and_no_file(tmp_path):
    lock = WorkDirLock(str(tmp_path))
    lock.acquire()
    assert os.listdir(tmp_path) == ['.lock']
    lock.release()
    assert os.listdir(tmp_path) == []
    lock.release()
    WorkDirLock(str(tmp_path)).acquire()


@pytest.mark.parametrize('content', ['', 'nonsense', '[1]', '{"pid": "x", "host": 3}'])
def test_an_unreadable_lock_file_is_no_obstacle(tmp_path, content):
    (tmp_path / '.lock').write_text(content)
    WorkDirLock(str(tmp_path)).acquire()


def test_without_locks_of_the_file_system_a_living_process_of_this_host_decides(
    tmp_path, monkeypatch, holder
):
    def unsupported(*args):
        raise OSError(errno.ENOLCK, 'No locks available')

    process = holder()
    monkeypatch.setattr(fcntl, 'lockf', unsupported)
    with pytest.raises(InputError, match=f'process {process.pid} on'):
        WorkDirLock(str(tmp_path)).acquire()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    WorkDirLock(str(tmp_path)).acquire()
    holder_of_another_host = dict(host='elsewhere', pid=1, started='')
    (tmp_path / '.lock').write_text(json.dumps(holder_of_another_host))
    WorkDirLock(str(tmp_path)).acquire()
