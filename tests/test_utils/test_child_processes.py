# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Children end with their parent, in whatever way it ends, and so do forks of a warm process."""

import os
import signal
import subprocess
import sys
import time

import pytest
from waiting import patience

from mtkdrl_mm.utils import warm_start
from mtkdrl_mm.utils.child_processes import run_child

# A child that says on SIGTERM or SIGINT that it saves, and exits a moment later.
CHILD = """
import os, signal, sys, time
def save(number, frame):
    time.sleep(0.3)
    os.write(1, b'saved\\n')
    os._exit(128 + number)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, save)
os.write(1, b'%d\\n' % os.getpid())
time.sleep(100)
"""
# A tool with two such children at a time, two more to come, and others that it has not listed yet.
PARENT = f"""
import sys, time
from concurrent.futures import ThreadPoolExecutor
from mtkdrl_mm.utils.child_processes import interruptible, run_child
command = [sys.executable, '-c', {CHILD!r}]
def numbers():
    yield from range(4)
    time.sleep(100)
with interruptible(), ThreadPoolExecutor(2) as pool:
    list(pool.map(lambda number: run_child(command), numbers()))
"""


# The same with forks, which write to a log.
WARM_PARENT = """
import os, sys, time
from concurrent.futures import ThreadPoolExecutor
from mtkdrl_mm.utils import warm_start
from mtkdrl_mm.utils.child_processes import interruptible
warm_start._PRELOADED = ['json']
command = [sys.executable, sys.argv[1]]
def run(number):
    with open('/proc/self/fd/1', 'a') as log:
        return warm_start.run_warm(command, os.environ, log)
def numbers():
    yield from range(4)
    time.sleep(100)
with interruptible(), ThreadPoolExecutor(2) as pool:
    list(pool.map(run, numbers()))
"""


@pytest.fixture(params=['new', 'warm'])
def tool(request, tmp_path):
    """A running tool, and the process numbers of its children."""
    child = tmp_path / 'child.py'
    child.write_text(CHILD)
    process = subprocess.Popen(
        [sys.executable, '-c', PARENT if request.param == 'new' else WARM_PARENT, str(child)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that run in the background of a script have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    children = [int(process.stdout.readline()) for _ in range(2)]
    yield process, children
    for pid in (process.pid, *children):
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def is_running(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(') ')[2][0] != 'Z'
    except FileNotFoundError:
        return False


def test_exit_code_and_usage():
    code, usage = run_child([sys.executable, '-c', 'raise SystemExit(3)'])
    assert code == 3 and usage.ru_maxrss > 0
    code, _ = run_child([sys.executable, '-c', 'import os; os.kill(os.getpid(), 15)'])
    assert code == -signal.SIGTERM


def test_a_fork_is_the_tool(monkeypatch, tmp_path):
    """Arguments, variables, threads, exit codes, output, and usage are those of a new process."""
    monkeypatch.setattr(warm_start, '_PRELOADED', ['torch'])
    tool, log_path = tmp_path / 'tool.py', tmp_path / 'log.txt'
    tool.write_text(
        'import beside, os, sys, torch\n'
        'print(__name__, sys.argv[1:], os.environ["X"], torch.get_num_threads(), flush=True)\n'
        'print("warned", file=sys.stderr)\n'
        'os.kill(os.getpid(), 9) if sys.argv[1] == "killed" else sys.exit(int(sys.argv[1]))\n'
    )
    (tmp_path / 'beside.py').touch()
    environment = dict(os.environ, X='5', OMP_NUM_THREADS='1')
    results = []
    for argument in ('0', '3', 'killed'):
        with open(log_path, 'a') as log:
            command = [sys.executable, str(tool), argument]
            results.append(warm_start.run_warm(command, environment, log))
    assert [code for code, _ in results] == [0, 3, -signal.SIGKILL]
    assert results[0][1].ru_maxrss > 0 and results[2][1] is None
    lines = [f"__main__ ['{argument}'] 5 1\nwarned\n" for argument in ('0', '3', 'killed')]
    assert log_path.read_text() == ''.join(lines)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_tool_waits_for_its_children(tool, number):
    process, children = tool
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=patience(30))
    assert process.returncode == 128 + number
    # No other child was started, and both had saved before the tool ended.
    assert out == 'saved\nsaved\n'
    assert err == (
        'Interrupted. What is finished is kept; the same command goes on where this one stopped.\n'
    )
    assert not any(map(is_running, children))


@pytest.mark.skipif(sys.platform != 'linux', reason='prctl')
def test_nothing_can_leave_children_behind(tool):
    process, children = tool
    process.kill()
    out, _ = process.communicate(timeout=patience(30))  # the children have its pipe, too
    assert out == 'saved\nsaved\n'
    deadline = time.monotonic() + patience(10)
    while any(map(is_running, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, children))
