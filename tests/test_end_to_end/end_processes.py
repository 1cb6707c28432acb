# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Start pairs of processes that train and end in several ways: end_processes.py PAIRS.

The processes are forks of this one, which has imported everything, and end as a tool does. Prints
the exit codes of each pair as JSON, by the way it ended.
"""

import gc
import json
import os
import socket
import sys
from importlib.util import find_spec

import torch
from torch.nn.parallel import DistributedDataParallel

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.launch import run_tool

ENDS = {'well': None, 'input error': InputError, 'fault': KeyError}


def train(end: str) -> None:
    """Train for some steps with collective operations of several kinds, then end."""
    torch.distributed.init_process_group('gloo')
    model = DistributedDataParallel(torch.nn.Linear(50, 50))
    model.itself = [model]  # a reference cycle, as runners and hooks make them
    for _ in range(5):
        model(torch.randn(8, 50)).sum().backward()
        torch.distributed.all_gather_object([None, None], end)
        torch.distributed.all_reduce(torch.ones(3))
    if error := ENDS[end]:
        raise error('No such file.')


def start_pair(end: str) -> list[int]:
    """Fork two processes.

    Returns:
        list[int]: Their process ids; empty in a fork that has trained.
    """
    with socket.create_server(('127.0.0.1', 0)) as any_port:
        port = any_port.getsockname()[1]
    pids = []
    for rank in ('0', '1'):
        pid = os.fork()
        if pid == 0:
            os.environ.update(
                RANK=rank, WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port)
            )
            run_tool(lambda: train(end))
            return []
        pids.append(pid)
    return pids


def main() -> None:
    """Start the pairs, one after the other; in a fork, return."""
    if find_spec('torch._dynamo'):
        import torch._dynamo  # noqa: F401  what DDP would import in every fork
    gc.collect()
    gc.freeze()
    codes: dict[str, list[list[int]]] = {end: [] for end in ENDS}
    for number in range(int(sys.argv[1])):
        end = list(ENDS)[number % len(ENDS)]
        pids = start_pair(end)
        if not pids:
            return
        codes[end].append([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])
    print(json.dumps(codes))


if __name__ == '__main__':
    main()
