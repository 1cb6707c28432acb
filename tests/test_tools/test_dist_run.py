# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""torchrun with the tools' exit codes."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / 'tools' / 'dist_run.py'

TOOL = """
import os, signal, sys, time
rank, how = int(os.environ['RANK']), sys.argv[1]
if how == 'kill' and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if how == 'code':
    sys.exit(7 if rank == 1 else 0)
if how == 'arguments' and rank == 0:
    print(sys.argv[1:], os.environ['OMP_NUM_THREADS'], os.environ['MASTER_ADDR'])
if how == 'save':
    arrived = []
    signal.signal(signal.SIGTERM, lambda *_: arrived.append(1))
    os.write(1, b'ready\\n')
    while not arrived:  # a signal before pause() would be waited for in vain
        time.sleep(0.02)
    time.sleep(float(sys.argv[2]))
    sys.exit(143)
if how == 'ends':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.write(1, b'ready\\n')
    time.sleep(1200)
"""


@pytest.fixture(scope='module')
def dist_run():
    """The tool, as a module."""
    spec = importlib.util.spec_from_file_location('dist_run', FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_machine_finds_a_free_port(dist_run):
    assert dist_run.torchrun_arguments('2', {}) == [
        '--nproc_per_node=2',
        '--standalone',
        '--local_addr=127.0.0.1',
    ]


def test_several_machines(dist_run):
    environ = dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='10.0.0.1')
    assert dist_run.torchrun_arguments('8', environ) == [
        '--nproc_per_node=8',
        '--nnodes=2',
        '--node_rank=1',
        '--master_addr=10.0.0.1',
        '--master_port=29500',
        '--rdzv_conf=timeout=600',
    ]
    environ.update(PORT='4711', DIST_TIMEOUT='15')
    arguments = dist_run.torchrun_arguments('8', environ)
    assert arguments[-2:] == ['--master_port=4711', '--rdzv_conf=timeout=15']


@pytest.mark.parametrize(
    ('processes', 'environ', 'message'),
    [
        ('0', {}, "The number of processes must be 1 or more, but is '0'."),
        ('auto', {}, "The number of processes must be 1 or more, but is 'auto'."),
        (
            '1',
            dict(NNODES='2'),
            'NNODES=2 needs MASTER_ADDR, an address of the first machine that all machines can '
            'reach.',
        ),
        ('1', dict(NNODES='two'), "NNODES must be a whole number of at least 1, but is 'two'."),
        ('1', dict(PORT='x'), "PORT must be a whole number of at least 1, but is 'x'."),
        (
            '1',
            dict(NNODES='2', NODE_RANK='2', MASTER_ADDR='a'),
            'NODE_RANK is 2, and must be less than NNODES (2).',
        ),
    ],
)
def test_numbers_that_make_no_sense(dist_run, processes, environ, message):
    with pytest.raises(dist_run.UsageError) as error:
        dist_run.torchrun_arguments(processes, environ)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ('codes', 'expected'),
    [
        ([143, 143], 143),
        ([-15, 143], 143),
        ([0, 143], 143),
        ([0, 0], 0),
        ([143, 1], 1),
        ([-9, 143], 137),
        ([], 143),
    ],
)
def test_code_after_sigterm(dist_run, codes, expected):
    assert dist_run.code_after_signal(signal.SIGTERM, codes) == expected


@pytest.fixture
def start(tmp_path):
    """Function that starts two processes of the tool."""
    tool = tmp_path / 'a tool.py'
    tool.write_text(TOOL)
    started = []

    def run(*arguments, **environ):
        kept = {k: v for k, v in os.environ.items() if k not in ('PORT', 'OMP_NUM_THREADS')}
        process = subprocess.Popen(
            [sys.executable, str(FILE), '2', str(tool), *arguments],
            env={**kept, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()


@pytest.mark.slow
def test_arguments_reach_the_tool(start):
    process = start('arguments', 'a b', '--flag=*')
    out, err = process.communicate(timeout=600)
    assert out.strip() == "['arguments', 'a b', '--flag=*'] 1 127.0.0.1"
    assert (process.returncode, err) == (0, '')


@pytest.mark.slow
def test_code_of_the_process_that_fails(start):
    process = start('code')
    _, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (7, '')


@pytest.mark.slow
def test_a_process_that_is_killed(start):
    process = start('kill')
    _, err = process.communicate(timeout=600)
    assert process.returncode == 137
    assert 'Error: SIGKILL ended process 1 of this machine (counted from 0; pid ' in err
    assert 'Traceback' not in err


@pytest.mark.slow
def test_saving_may_take_longer_than_torchrun_waits(start):
    process = start('save', '33')
    assert [process.stdout.readline() for _ in range(2)] == ['ready\n'] * 2
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 143
    assert 'Traceback' not in err and 'Error' not in err


@pytest.mark.slow
def test_a_limit_on_saving(start):
    process = start('save', '1200', SAVE_TIMEOUT='2')
    assert [process.stdout.readline() for _ in range(2)] == ['ready\n'] * 2
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 137
    assert 'Error: The processes were still busy 2 s after SIGTERM and were killed' in err


@pytest.mark.slow
def test_a_tool_that_had_just_ended(start):
    process = start('ends')
    assert [process.stdout.readline() for _ in range(2)] == ['ready\n'] * 2
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=600)
    assert process.returncode == 0
