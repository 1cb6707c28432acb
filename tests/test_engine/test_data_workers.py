# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Data workers survive the signals of a job's end, and not their parent."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from waiting import patience

from mtkdrl_mm.engine.data_workers import shield_workers

START = ['fork', 'spawn']


class Slow(Dataset):
    """Sixteen images, each the pid of the worker that loaded it."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def __len__(self):
        return 16

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return torch.tensor([index, os.getpid()])


@pytest.fixture(params=START)
def start_method(request, monkeypatch):
    from mtkdrl_mm.engine import data_workers

    monkeypatch.setattr(data_workers.multiprocessing, 'get_start_method', lambda: request.param)


def test_signals_do_not_end_workers(start_method):
    loader = DataLoader(Slow(0.01), batch_size=2, num_workers=2)
    shield_workers(loader)
    images = []
    for batch in loader:
        images.append(batch)
        for pid in set(batch[:, 1].tolist()):
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
    assert torch.cat(images)[:, 0].tolist() == list(range(16))


def test_workers_end_with_their_loader(start_method):
    loader = DataLoader(Slow(), batch_size=2, num_workers=2, persistent_workers=True)
    shield_workers(loader)
    pids = set(torch.cat(list(loader))[:, 1].tolist())
    workers = loader._iterator._workers
    start = time.time()
    workers[0].terminate()  # what torch does with one that hangs
    assert workers[0].exitcode == -signal.SIGKILL
    del loader, workers
    assert len(pids) == 2 and time.time() - start < patience(4.5)  # torch waits for 5 s
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_context_of_one_s_own_and_no_workers_are_left_alone():
    loader = DataLoader(Slow(), num_workers=1, multiprocessing_context='spawn')
    context = loader.multiprocessing_context
    shield_workers(loader)
    assert loader.multiprocessing_context is context
    loader = DataLoader(Slow())
    shield_workers(loader)
    assert loader.multiprocessing_context is None


PARENT = """
import sys, time, torch
sys.path[:0] = {folders!r}
from test_data_workers import Slow
from torch.utils.data import DataLoader
from mtkdrl_mm.engine.data_workers import shield_workers
loader = DataLoader(Slow(0.2), batch_size=2, num_workers=2, persistent_workers=True)
shield_workers(loader)
for batch in loader:
    print(*sorted({{w.pid for w in loader._iterator._workers}}), flush=True)
    if 'leave' in sys.argv:
        raise SystemExit(143)
"""


def is_running(pid):
    """Orphans that have ended stay as zombies where process 1 does not look after them."""
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize('how', ['leave', 'kill'])
def test_workers_end_with_their_parent(how):
    """The parent leaves in the middle of an epoch, or is killed."""
    folder = os.path.dirname(__file__)
    code = PARENT.format(folders=[folder, os.path.dirname(folder)])
    process = subprocess.Popen([sys.executable, '-c', code, how], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    start = time.time()
    if how == 'kill':
        process.kill()
    assert process.wait(timeout=600) == (143 if how == 'leave' else -signal.SIGKILL)
    assert time.time() - start < patience(8)
    while any(is_running(pid) for pid in pids):
        assert time.time() - start < patience(15), 'the workers are still there'
        time.sleep(0.1)
