# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Set-up of process groups, and messages for lost processes."""

import gc
import glob
import ipaddress
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from .errors import InputError, first_line

# Seconds that a process waits for the others. On GPUs the first step of a large model may
# compile kernels, and rank 0 alone writes the checkpoint.
DEFAULT_TIMEOUTS = {'gloo': 120.0, 'nccl': 600.0}

# Ports for Slurm's jobs: above the well-known ones, below those that Linux hands out to
# clients (32768 on). The number is prime, so that consecutive jobs use all of the ports.
_FIRST_PORT, _NUM_PORTS = 12000, 19997

# Errors of torch for a lost peer or an exceeded time limit: of gloo, the store at the
# rendezvous address, and NCCL.
_LOST_PEER = re.compile(
    r'gloo/transport|Gloo connect|connectFullMesh|'
    r'Socket Timeout|[Cc]onnect\(\) timed out|client socket has|wait timeout|Wait timeout|'
    r'Connection reset by peer|Connection closed by peer|Broken pipe|'
    r'Stop_waiting response|[Ff]ailed to (recv|send)|Timed out (after|waiting)|'
    r'ncclRemoteError|ncclSystemError|NCCL communicator was aborted|Watchdog caught collective'
)
_PORT_IN_USE = re.compile(r'EADDRINUSE|[Aa]ddress already in use')

# The time limit of this process's group in seconds, for messages.
_timeout: float | None = None


def prepare_processes(cfg: Config) -> None:
    """Prepare the process group of a launcher; does nothing for a single process.

    It sets torch's environment variables from the launcher's, the time limit, and gloo's network
    interface. Without GPUs it also starts the process group, because mmengine assigns a GPU to
    every process; with GPUs the runner starts it later, from the same variables.

    Args:
        cfg (Config): The merged config with ``launcher``; ``env_cfg.dist_cfg`` and, without
            GPUs, the norm layers and the model's wrapper are changed in place.

    Raises:
        InputError: If the launcher's variables are missing or invalid, if the time limit is no
            number, if ``MASTER_ADDR`` cannot be reached, or if there are fewer GPUs than
            processes.
    """
    global _timeout
    if cfg.launcher == 'none':
        return
    with_gpus = torch.cuda.is_available()
    set_process_variables(cfg.launcher)
    cfg.setdefault('env_cfg', ConfigDict())
    cfg.env_cfg.setdefault('dist_cfg', ConfigDict())
    dist_cfg = cfg.env_cfg.dist_cfg
    if not with_gpus:
        dist_cfg.backend = 'gloo'
    backend = dist_cfg.get('backend', 'nccl')
    dist_cfg.timeout = _timeout = read_timeout(dist_cfg, backend)
    if 'gloo' in backend:
        _choose_interface()
    if with_gpus:
        _check_gpus()
        return
    if revert_sync_norm(cfg.get('model')):
        print_log('SyncBN needs GPUs: it is replaced by BN on each process.', 'current')
    # mmengine would pass a GPU to DDP.
    cfg.setdefault(
        'model_wrapper_cfg',
        ConfigDict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        ),
    )
    cfg.model_wrapper_cfg.device_ids = None
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo', timeout=timedelta(seconds=_timeout))


def revert_sync_norm(node: Any) -> bool:
    """Replace SyncBN by BN in a config, in place; return whether there was any."""
    found = False
    if isinstance(node, dict):
        if node.get('type') == 'SyncBN':
            node['type'], found = 'BN', True
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        found = any([revert_sync_norm(value) for value in node]) or found
    return found


def set_process_variables(launcher: str) -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT from the launcher's variables.

    ``MASTER_ADDR`` and ``MASTER_PORT`` are unchanged if they are set.

    Args:
        launcher (str): ``'pytorch'`` (torchrun has set them), ``'slurm'`` or ``'mpi'``.

    Raises:
        InputError: If the process was not started by this launcher.
    """
    if launcher == 'slurm':
        os.environ.update(slurm_variables(os.environ))
    elif launcher == 'mpi':
        os.environ.update(_mpi_variables(os.environ))
    needed = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')
    missing = [name for name in needed if not os.environ.get(name)]
    if missing:
        raise InputError(
            f'--launcher {launcher}: the environment variable {missing[0]} is not set. '
            + (
                'Start the tool with tools/dist_train.sh or tools/dist_test.sh (or torchrun).'
                if launcher == 'pytorch'
                else f'Set {missing[0]} to the first machine of the job.'
            )
        )


def slurm_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Derive torch's environment variables from those of a Slurm task.

    The port is a function of the job and its step, so that two jobs on a machine do not collide.

    Args:
        environ (Mapping[str, str]): The task's environment variables.

    Returns:
        dict[str, str]: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.

    Raises:
        InputError: If a variable that srun sets is missing.
    """

    def read(*names: str) -> str:
        for name in names:
            if environ.get(name):
                return environ[name]
        raise InputError(
            f'--launcher slurm: the environment variable {names[0]} is not set, so this process '
            'was not started by srun. Start the tool with tools/slurm_train.sh or '
            'tools/slurm_test.sh, or let tools/store_teacher_outputs.py submit jobs with --jobs.'
        )

    variables = dict(
        RANK=read('SLURM_PROCID'),
        WORLD_SIZE=read('SLURM_NTASKS'),
        LOCAL_RANK=environ.get('SLURM_LOCALID') or '0',
    )
    nodes = environ.get('MASTER_ADDR') or read('SLURM_STEP_NODELIST', 'SLURM_NODELIST')
    variables['MASTER_ADDR'] = environ.get('MASTER_ADDR') or slurm_hosts(nodes)[0]
    variables['MASTER_PORT'] = environ.get('MASTER_PORT') or str(
        slurm_port(int(read('SLURM_JOB_ID')), int(environ.get('SLURM_STEP_ID') or 0))
    )
    return variables


def slurm_port(job: int, step: int) -> int:
    """Derive a port from the numbers of a Slurm job and its step.

    Args:
        job (int): The job's number.
        step (int): The step's number within the job.

    Returns:
        int: The port, from 12000 to 31996. Ports repeat after 19,997 jobs.
    """
    return _FIRST_PORT + (64 * job + step) % _NUM_PORTS


def slurm_hosts(nodes: str) -> list[str]:
    """Expand Slurm's compressed list of hosts.

    Args:
        nodes (str): For example ``node[01-04,07],login``.

    Returns:
        list[str]: The hosts in order; only the first one if ``scontrol`` is missing, as in many
        containers.
    """
    if shutil.which('scontrol'):
        result = subprocess.run(
            ['scontrol', 'show', 'hostnames', nodes], capture_output=True, text=True
        )
        if result.returncode == 0 and result.stdout.strip():
            return result.stdout.split()
    first = re.match(r'([^\[,]*)(?:\[(\d+)[^\]]*\]([^,\[]*))?', nodes)
    return [''.join(part or '' for part in first.groups())] if first else [nodes]


def _mpi_variables(environ: Mapping[str, str]) -> dict[str, str]:
    names = dict(RANK='RANK', WORLD_SIZE='SIZE', LOCAL_RANK='LOCAL_RANK')
    variables = {}
    for ours, theirs in names.items():
        if not environ.get(f'OMPI_COMM_WORLD_{theirs}'):
            raise InputError(
                f'--launcher mpi: the environment variable OMPI_COMM_WORLD_{theirs} is not set, '
                'so this process was not started by mpirun of Open MPI.'
            )
        variables[ours] = environ[f'OMPI_COMM_WORLD_{theirs}']
    variables['MASTER_PORT'] = environ.get('MASTER_PORT') or '29500'
    return variables


def read_timeout(dist_cfg: Mapping[str, Any], backend: str) -> float:
    """Read the time limit for waiting for other processes.

    Args:
        dist_cfg (Mapping): ``env_cfg.dist_cfg`` of the config; its ``timeout`` (seconds) is used
            if the environment variable ``DIST_TIMEOUT`` is not set.
        backend (str): ``'gloo'``, ``'nccl'``, or another one of torch.

    Returns:
        float: The time limit in seconds.

    Raises:
        InputError: If it is no positive number.
    """
    name, value = 'DIST_TIMEOUT', os.environ.get('DIST_TIMEOUT')
    if not value:
        name, value = 'env_cfg.dist_cfg.timeout', dist_cfg.get('timeout')
    if value is None:
        return DEFAULT_TIMEOUTS.get(backend, DEFAULT_TIMEOUTS['nccl'])
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    # At most a year, because torch counts milliseconds.
    if not 0 < seconds <= 365 * 86400:
        raise InputError(f'{name} must be a number of seconds greater than 0, but is {value!r}.')
    return seconds


def _check_gpus() -> None:
    """Check the number of GPUs; CUDA's error ("invalid device ordinal") names no number."""
    local_rank, count = int(os.environ['LOCAL_RANK']), torch.cuda.device_count()
    if local_rank >= count:
        raise InputError(
            f'Process {local_rank} of host {socket.gethostname()} (counted from 0) needs a '
            f'separate GPU, and only {count} are visible. Start at most {count} processes per '
            'machine; in Slurm, make all GPUs of the job visible to every task (--gres=gpu:N, not '
            '--gpus-per-task).'
        )


def _choose_interface() -> None:
    """Set the network interface of gloo to the one that leads to the other machines.

    By default gloo takes the one to which the host's name resolves. Often this is loopback, or
    a network that the other machine cannot reach.
    """
    if os.environ.get('GLOO_SOCKET_IFNAME') or int(os.environ['WORLD_SIZE']) == 1:
        return
    name = find_interface(os.environ['MASTER_ADDR'])
    if name is None:
        # On the first machine MASTER_ADDR may resolve to loopback: another host is tried.
        nodes = os.environ.get('SLURM_STEP_NODELIST') or os.environ.get('SLURM_NODELIST')
        own = os.environ.get('SLURMD_NODENAME') or socket.gethostname()
        others = [host for host in slurm_hosts(nodes) if host != own] if nodes else []
        with suppress(InputError):  # a single machine under another name
            name = find_interface(others[0]) if others else None
    if name is None:
        return
    os.environ['GLOO_SOCKET_IFNAME'] = name
    if os.environ['LOCAL_RANK'] == '0':
        print_log(
            f'GLOO_SOCKET_IFNAME={name}: the network interface of {socket.gethostname()} that '
            f'leads to {os.environ["MASTER_ADDR"]}. Set the variable to use another one.',
            'current',
        )


def find_interface(address: str) -> str | None:
    """Find the local network interface that leads to a host.

    No packet is sent.

    Args:
        address (str): Name or IP address of the host, which may be this one.

    Returns:
        str | None: For example ``'eth0'``; None for loopback, and on systems other than Linux.

    Raises:
        InputError: If the name has no address, or no interface leads there.
    """
    try:
        family, kind, _, _, target = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as connection:
            connection.connect(target)
            local = connection.getsockname()[0]
    except OSError as error:
        raise InputError(
            f'The address "{address}" (MASTER_ADDR) cannot be reached from host '
            f'{socket.gethostname()}: {error.strerror or error}. Set MASTER_ADDR to an address of '
            'the first machine that all machines of the job can reach.'
        ) from error
    if ipaddress.ip_address(local.split('%')[0]).is_loopback:
        return None
    for _, name in socket.if_nameindex():
        if local.split('%')[0] in _addresses(name):
            return name
    return None


def _addresses(interface: str) -> list[str]:
    """IP addresses of an interface on Linux: the first of IPv4, and all of IPv6."""
    try:
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            get_address = 0x8915  # SIOCGIFADDR of linux/sockios.h
            request = interface.encode()[:15].ljust(256, b'\0')
            reply = fcntl.ioctl(any_socket, get_address, request)
            found = [socket.inet_ntoa(reply[20:24])]
    except (ImportError, OSError):
        found = []
    try:
        with open('/proc/net/if_inet6') as file:
            rows = [line.split() for line in file]
    except OSError:
        rows = []
    found += [str(ipaddress.IPv6Address(int(row[0], 16))) for row in rows if row[5] == interface]
    return found


def in_process_group() -> bool:
    """Whether this process has a process group."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def leave_process_group() -> None:
    """Destroy the process group before the interpreter exits.

    In some versions of torch, gloo's threads otherwise abort the process after all its work is
    done, with the exit code of a failure. Wrappers of the model refer to the group, and are
    collected first. Nothing else may refer to them: no variable of a running function, and no
    traceback.
    """
    if not in_process_group():
        return
    gc.collect()
    _wait_for_threads()
    torch.distributed.destroy_process_group()


def _wait_for_threads(seconds: float = 10.0) -> None:
    """Wait until no other thread of this process has anything to do.

    A thread of gloo may still have to release the tensors of the last collective operation, for
    which it needs Python's lock. In torch 2.1, the end of a process group holds this lock while
    it waits for that thread.

    Args:
        seconds (float): Time limit, for threads that never rest. Defaults to 10.
    """
    end, quiet = time.monotonic() + seconds, 0
    while quiet < 2 and time.monotonic() < end:
        time.sleep(0.02)  # without the lock
        quiet = 0 if _busy_threads() else quiet + 1


def _busy_threads() -> bool:
    """Whether another thread of this process runs, or waits for a core; False if unknown."""
    for path in glob.glob('/proc/self/task/*/stat'):
        with suppress(OSError), open(path) as file:
            state = file.read().rpartition(')')[2].split()[0]
            if state == 'R' and int(path.split('/')[4]) != threading.get_native_id():
                return True
    return False


def describe_group_error(
    error: BaseException, process: str | None = None, timeout: float | None = None
) -> str | None:
    """Format a message about a lost peer or an exceeded time limit.

    Args:
        error (BaseException): The error of torch.
        process (str, optional): Name of this process. Defaults to "Rank R of W".
        timeout (float, optional): Its time limit in seconds. Defaults to that of this process's
            group.

    Returns:
        str | None: The sentence, with this process's rank, host, address and time limit, and what
        to check; None for any other error, and for single processes.
    """
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        return None  # for example, the closed pipe of the standard output
    if process is None:
        if int(os.environ.get('WORLD_SIZE') or 1) == 1:
            return None
        process = f'Rank {os.environ.get("RANK")} of {os.environ["WORLD_SIZE"]}'
    if timeout is None:
        timeout = _timeout if _timeout is not None else read_timeout({}, 'nccl')
    host = socket.gethostname()
    where = f'{os.environ.get("MASTER_ADDR")}:{os.environ.get("MASTER_PORT")}'
    if _PORT_IN_USE.search(str(error)):
        return (
            f'The port of {where}, the rendezvous address, is in use by another program on host '
            f'{host}. Set another one (PORT for tools/dist_train.sh and tools/dist_test.sh, '
            'MASTER_PORT for Slurm), the same on all machines.'
        )
    if not _LOST_PEER.search(str(error)) or 'enforce fail' in str(error):
        return None
    return (
        f'{process} on host {host} has lost the other processes, or waited for them longer than '
        f'the time limit of {timeout:g} s (rendezvous address: {where}; torch: '
        f'{first_line(error)}): look '
        "first for an error in the other processes' and machines' logs, then check that the "
        'network between the machines is up, that GLOO_SOCKET_IFNAME (on GPUs NCCL_SOCKET_IFNAME) '
        'names the interface that connects them, and, if a step may take longer, increase '
        'DIST_TIMEOUT (seconds).'
    )
