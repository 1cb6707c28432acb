# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Set-up of process groups, and messages for lost processes."""

import hashlib
import os
import shutil
import socket
import sys
import threading
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mtkdrl_mm.utils import InputError, processes
from mtkdrl_mm.utils.processes import (
    describe_group_error,
    find_interface,
    leave_process_group,
    prepare_processes,
    read_timeout,
    revert_sync_norm,
    set_process_variables,
    slurm_hosts,
    slurm_port,
    slurm_variables,
)

TASK = dict(
    SLURM_PROCID='3',
    SLURM_NTASKS='4',
    SLURM_LOCALID='1',
    SLURM_JOB_ID='1000',
    SLURM_STEP_ID='2',
    SLURM_STEP_NODELIST='node07',
    SLURM_NODELIST='node[01-07]',
)
VARIABLES = dict(
    RANK='1', WORLD_SIZE='2', LOCAL_RANK='1', MASTER_ADDR='127.0.0.1', MASTER_PORT='2950'
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """No launcher's variables, and what a test sets does not stay."""
    monkeypatch.setattr(os, 'environ', os.environ.copy())
    monkeypatch.setattr(processes, '_timeout', None)
    prefixes = ('SLURM', 'OMPI', 'MASTER_', 'GLOO_', 'DIST_TIMEOUT')
    for name in list(os.environ):
        if name.startswith(prefixes) or name in VARIABLES:
            del os.environ[name]


def no_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)


@pytest.fixture
def started(monkeypatch):
    """The arguments with which torch's process group was started."""
    calls = []
    monkeypatch.setattr(
        torch.distributed,
        'init_process_group',
        lambda *args, **kwargs: calls.append((args, kwargs)),
    )
    return calls


def test_variables_of_a_slurm_task():
    assert slurm_variables(TASK) == dict(
        RANK='3', WORLD_SIZE='4', LOCAL_RANK='1', MASTER_ADDR='node07', MASTER_PORT='16011'
    )
    # 12000 + (64 * 1000 + 2) mod 19997
    assert slurm_port(1000, 2) == 16011


def test_slurm_variables_without_a_step():
    batch = {k: v for k, v in TASK.items() if 'STEP' not in k and k != 'SLURM_LOCALID'}
    found = slurm_variables(batch)
    assert (found['LOCAL_RANK'], found['MASTER_PORT']) == ('0', '16009')


def test_address_and_port_of_the_user_stay():
    found = slurm_variables({**TASK, 'MASTER_ADDR': '10.0.0.7', 'MASTER_PORT': '4711'})
    assert (found['MASTER_ADDR'], found['MASTER_PORT']) == ('10.0.0.7', '4711')


@pytest.mark.parametrize('name', ['SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_JOB_ID'])
def test_a_process_that_slurm_did_not_start(name):
    with pytest.raises(InputError) as error:
        slurm_variables({k: v for k, v in TASK.items() if k != name})
    assert str(error.value) == (
        f'--launcher slurm: the environment variable {name} is not set, so this process was not '
        'started by srun. Start the tool with tools/slurm_train.sh or tools/slurm_test.sh, or let '
        'tools/store_teacher_outputs.py submit jobs with --jobs.'
    )


def test_two_jobs_at_once_have_two_ports():
    ports = {slurm_port(job, step) for job in range(5000, 5300) for step in range(60)}
    assert len(ports) == 300 * 60
    assert min(ports) >= 12000 and max(ports) < 32768


@pytest.mark.parametrize(
    ('nodes', 'first'),
    [
        ('node07', 'node07'),
        ('node[03-04,07],login', 'node03'),
        ('n[2,5]-ib', 'n2-ib'),
        ('a,b', 'a'),
        ('gpu-[001-128]', 'gpu-001'),
    ],
)
def test_first_host_without_scontrol(monkeypatch, nodes, first):
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    assert slurm_hosts(nodes) == [first]


def test_hosts_come_from_scontrol(monkeypatch, tmp_path):
    program = tmp_path / 'scontrol'
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$1 $2 $3" x y | tr " " _\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path) + os.pathsep + os.environ['PATH'])
    assert slurm_hosts('n[1-2]') == ['show_hostnames_n[1-2]', 'x', 'y']


def test_variables_of_mpi():
    os.environ.update(
        OMPI_COMM_WORLD_RANK='1', OMPI_COMM_WORLD_SIZE='2', OMPI_COMM_WORLD_LOCAL_RANK='0'
    )
    with pytest.raises(InputError, match='mpi: the environment variable MASTER_ADDR is not set'):
        set_process_variables('mpi')
    os.environ['MASTER_ADDR'] = 'first'
    set_process_variables('mpi')
    assert [os.environ[name] for name in VARIABLES] == ['1', '2', '0', 'first', '29500']


def test_a_process_that_torchrun_did_not_start():
    os.environ['LOCAL_RANK'] = '0'
    with pytest.raises(InputError) as error:
        set_process_variables('pytorch')
    assert str(error.value) == (
        '--launcher pytorch: the environment variable RANK is not set. Start the tool with '
        'tools/dist_train.sh or tools/dist_test.sh (or torchrun).'
    )


@pytest.mark.parametrize(
    ('variable', 'setting', 'backend', 'expected'),
    [
        (None, None, 'gloo', 120),
        (None, None, 'nccl', 600),
        (None, None, 'cpu:gloo,cuda:nccl', 600),
        (None, 30, 'gloo', 30),
        ('15', 30, 'nccl', 15),
        ('0.5', None, 'gloo', 0.5),
        ('', 30, 'gloo', 30),
    ],
)
def test_time_limit(variable, setting, backend, expected):
    if variable is not None:
        os.environ['DIST_TIMEOUT'] = variable
    settings = {} if setting is None else dict(timeout=setting)
    assert read_timeout(settings, backend) == expected


@pytest.mark.parametrize('value', ['soon', '0', '-1', 'nan', 'inf', '1e9'])
def test_time_limit_that_is_none(value):
    os.environ['DIST_TIMEOUT'] = value
    message = f'DIST_TIMEOUT must be a number of seconds greater than 0, but is {value!r}.'
    with pytest.raises(InputError) as error:
        read_timeout({}, 'gloo')
    assert str(error.value) == message
    del os.environ['DIST_TIMEOUT']
    with pytest.raises(InputError, match=r'^env_cfg\.dist_cfg\.timeout must be a number'):
        read_timeout(dict(timeout=value), 'gloo')


def test_a_single_process_is_left_alone():
    cfg = Config(dict(launcher='none', model=dict(norm=dict(type='SyncBN'))))
    prepare_processes(cfg)
    assert cfg.to_dict() == dict(launcher='none', model=dict(norm=dict(type='SyncBN')))


def test_processes_without_gpus(monkeypatch, started):
    no_gpus(monkeypatch)
    os.environ.update(TASK, MASTER_ADDR='127.0.0.1')
    cfg = Config(dict(launcher='slurm', model=dict(norm=dict(type='SyncBN'))))
    prepare_processes(cfg)
    ((backend,), kwargs) = started[0]
    assert backend == 'gloo' and kwargs['timeout'].total_seconds() == 120
    assert cfg.env_cfg.dist_cfg == dict(backend='gloo', timeout=120)
    assert cfg.model.norm.type == 'BN'
    assert cfg.model_wrapper_cfg.device_ids is None
    assert (os.environ['RANK'], os.environ['MASTER_PORT']) == ('3', '16011')


def test_processes_with_gpus_are_left_to_the_runner(monkeypatch, started):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    os.environ.update(TASK, MASTER_ADDR='127.0.0.1')
    cfg = Config(dict(launcher='slurm', model=dict(norm=dict(type='SyncBN'))))
    prepare_processes(cfg)
    assert not started and cfg.model.norm.type == 'SyncBN' and 'model_wrapper_cfg' not in cfg
    assert cfg.env_cfg.dist_cfg == dict(timeout=600)
    assert (os.environ['RANK'], os.environ['LOCAL_RANK']) == ('3', '1')


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    os.environ.update(VARIABLES)
    with pytest.raises(InputError) as error:
        prepare_processes(Config(dict(launcher='pytorch')))
    assert str(error.value).startswith(f'Process 1 of host {socket.gethostname()}')
    assert 'needs a separate GPU, and only 1 are visible. Start at most 1 processes' in str(
        error.value
    )


def test_loopback_needs_no_interface():
    assert find_interface('127.0.0.1') is None
    assert find_interface('localhost') is None


def own_address():
    """An address of this machine that is not loopback, without sending anything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(('192.0.2.1', 9))
        except OSError:
            return None
        return probe.getsockname()[0]


@pytest.mark.skipif(
    own_address() is None or not Path('/proc/net/dev').exists(), reason='needs a network, on Linux'
)
def test_interface_of_an_own_address_and_of_a_far_one(monkeypatch, started):
    name = find_interface('192.0.2.1')
    assert name in [found for _, found in socket.if_nameindex()] and name != 'lo'
    assert find_interface(own_address()) == name
    no_gpus(monkeypatch)
    os.environ.update(VARIABLES, MASTER_ADDR='192.0.2.1')
    prepare_processes(Config(dict(launcher='pytorch')))
    assert os.environ['GLOO_SOCKET_IFNAME'] == name
    os.environ['GLOO_SOCKET_IFNAME'] = 'chosen'
    prepare_processes(Config(dict(launcher='pytorch')))
    assert os.environ['GLOO_SOCKET_IFNAME'] == 'chosen'


def test_the_first_machine_whose_name_is_loopback(monkeypatch):
    """There the other machines of the job show the way."""
    leads = {'127.0.1.1': None, 'b': 'eth7'}
    monkeypatch.setattr(processes, 'find_interface', lambda address: leads[address])
    monkeypatch.setattr(processes, 'slurm_hosts', lambda nodes: nodes.split(','))
    os.environ.update(
        VARIABLES, MASTER_ADDR='127.0.1.1', SLURM_STEP_NODELIST='a,b', SLURMD_NODENAME='a'
    )
    processes._choose_interface()
    assert os.environ['GLOO_SOCKET_IFNAME'] == 'eth7'
    os.environ.update(SLURM_STEP_NODELIST='a')
    del os.environ['GLOO_SOCKET_IFNAME']
    processes._choose_interface()
    assert 'GLOO_SOCKET_IFNAME' not in os.environ


def test_an_address_that_is_none():
    with pytest.raises(InputError) as error:
        find_interface('no such host')
    message = str(error.value)
    assert message.startswith('The address "no such host" (MASTER_ADDR) cannot be reached from')
    assert message.endswith(
        'Set MASTER_ADDR to an address of the first machine that all machines of the job can reach.'
    )


LOST = [
    '[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:941',
    '[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 15000ms for '
    'recv operation to complete',
    'The client socket has timed out after 15s while trying to connect to (10.0.0.1, 29500).',
    'Socket Timeout',
    'Stop_waiting response is expected',
    'NCCL communicator was aborted on rank 1.',
    'NCCL error in: x.cpp:1\nncclRemoteError: A call failed possibly due to a network error',
]


@pytest.mark.parametrize('text', LOST)
def test_a_lost_peer_is_one_sentence(text):
    os.environ.update(VARIABLES, DIST_TIMEOUT='15')
    assert describe_group_error(RuntimeError(text)) == (
        f'Rank 1 of 2 on host {socket.gethostname()} has lost the other processes, or waited for '
        'them longer than the time limit of 15 s (rendezvous address: 127.0.0.1:2950; torch: '
        + text.split('\n')[0].rstrip('.')
        + "): look first for an error in the other processes' and machines' logs, then check that "
        'the network between the machines is up, that GLOO_SOCKET_IFNAME (on GPUs '
        'NCCL_SOCKET_IFNAME) names the interface that connects them, and, if a step may take '
        'longer, increase DIST_TIMEOUT (seconds).'
    )


@pytest.mark.parametrize(
    'text',
    [
        'CUDA out of memory',
        'Expected all tensors to be on the same device',
        '[enforce fail at ../third_party/gloo/gloo/transport/tcp/pair.cc:446] op.preamble.length',
        'DataLoader worker (pid 5) is killed by signal: Terminated.',
    ],
)
def test_other_errors_are_none_of_the_group(text):
    os.environ.update(VARIABLES)
    assert describe_group_error(RuntimeError(text)) is None


def test_errors_of_the_system_are_none_of_the_group():
    os.environ.update(VARIABLES)
    assert describe_group_error(BrokenPipeError(32, 'Broken pipe')) is None
    assert describe_group_error(TimeoutError('The client socket has timed out')) is not None


def test_a_single_process_loses_nobody():
    assert describe_group_error(RuntimeError('Socket Timeout')) is None


def test_a_port_in_use():
    os.environ.update(VARIABLES)
    sentence = describe_group_error(
        RuntimeError('failed to bind (errno: 98 - Address already in use)')
    )
    assert sentence.startswith(
        'The port of 127.0.0.1:2950, the rendezvous address, is in use by another program on '
    )


def test_batch_norm_without_gpus():
    model = dict(a=[dict(type='SyncBN', eps=1), dict(type='BN')], b=dict(c=dict(type='SyncBN')))
    assert revert_sync_norm(model)
    assert model == dict(a=[dict(type='BN', eps=1), dict(type='BN')], b=dict(c=dict(type='BN')))
    assert not revert_sync_norm(model)


@pytest.fixture
def busy_thread():
    """Function that starts a thread which computes, without Python's lock, for some rounds."""
    threads = []

    def start(rounds):
        arguments = ('sha256', b'password', b'salt', rounds)
        threads.append(threading.Thread(target=hashlib.pbkdf2_hmac, args=arguments))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join()


def test_groups_end_when_no_thread_is_busy(monkeypatch, busy_thread):
    """One of gloo may need Python's lock, which torch 2.1 holds while it waits for that thread."""
    alive = []
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(
        torch.distributed, 'destroy_process_group', lambda: alive.append(thread.is_alive())
    )
    thread = busy_thread(1_000_000)
    leave_process_group()
    assert alive == [False]


def test_threads_that_never_rest(busy_thread):
    thread = busy_thread(2_000_000)
    processes._wait_for_threads(seconds=0.1)
    assert thread.is_alive()


def test_the_group_is_left_once_its_threads_have_done_their_work(monkeypatch):
    """They drop tensors with Python's lock, which the destruction of the group does not release."""
    begin, done, order = threading.Event(), threading.Event(), []
    thread = threading.Thread(target=lambda: begin.wait(20) and done.set())
    thread.start()
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr('mtkdrl_mm.utils.processes.gc.collect', begin.set)
    monkeypatch.setattr(
        torch.distributed, 'destroy_process_group', lambda: order.append(done.is_set())
    )
    switch = sys.getswitchinterval()
    sys.setswitchinterval(60)  # the lock changes hands only where it is released
    try:
        leave_process_group()
    finally:
        sys.setswitchinterval(switch)
    thread.join()
    assert order == [True]
