# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Two machines, as two network namespaces that a virtual cable joins."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import patience

from .conftest import ROOT, Workshop, environment

ADDRESSES = ('10.213.77.1', '10.213.77.2')
# The two may start as far apart, and a step may take as long.
LIMIT = round(patience(15))


def ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(['ip', *arguments], check=check, capture_output=True, text=True)


def can_make_namespaces() -> bool:
    if not hasattr(os, 'geteuid') or os.geteuid() != 0 or shutil.which('ip') is None:
        return False
    name = f'probe{os.getpid()}'
    made = subprocess.run(['ip', 'netns', 'add', name], capture_output=True).returncode == 0
    ip('netns', 'delete', name, check=False)
    return made


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not can_make_namespaces(), reason='needs root, iproute2 and network namespaces'
    ),
]


class Machines:
    """Two namespaces; each has loopback and one end of the cable."""

    def __init__(self) -> None:
        self.names = [f'm{os.getpid()}{side}' for side in 'ab']
        self.cables = [f'v{os.getpid()}{side}' for side in 'ab']
        for name in self.names:
            ip('netns', 'add', name)
        ip('link', 'add', self.cables[0], 'type', 'veth', 'peer', 'name', self.cables[1])
        for name, cable, address in zip(self.names, self.cables, ADDRESSES):
            ip('link', 'set', cable, 'netns', name)
            ip('-n', name, 'addr', 'add', f'{address}/24', 'dev', cable)
            ip('-n', name, 'link', 'set', 'lo', 'up')
            ip('-n', name, 'link', 'set', cable, 'up')

    def start(
        self, rank: int, log: Path, *command: str, limit: int = LIMIT
    ) -> 'subprocess.Popen[bytes]':
        """Start a command on one of them, as that machine of dist_train.sh."""
        variables = dict(NNODES='2', NODE_RANK=str(rank), MASTER_ADDR=ADDRESSES[0])
        variables['DIST_TIMEOUT'] = str(limit)
        with open(log, 'w') as file:
            return subprocess.Popen(
                ['ip', 'netns', 'exec', self.names[rank], *command],
                cwd=ROOT,
                env=environment(**variables, PYTHONUNBUFFERED='1'),
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def cut(self) -> None:
        """Pull the cable."""
        ip('-n', self.names[1], 'link', 'set', self.cables[1], 'down')

    def close(self) -> None:
        """Remove both, and what still runs there."""
        for name in self.names:
            pids = subprocess.run(['ip', 'netns', 'pids', name], capture_output=True, text=True)
            for pid in pids.stdout.split():
                subprocess.run(['kill', '-9', pid], capture_output=True)
            ip('netns', 'delete', name, check=False)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    for variable in ('GLOO_SOCKET_IFNAME', 'PORT', 'MASTER_PORT'):
        monkeypatch.delenv(variable, raising=False)
    both = Machines()
    yield both
    both.close()


def start_both(machines: Machines, workshop: Workshop, epochs: int) -> list:
    options = [f'train_cfg.max_epochs={epochs}', 'train_cfg.val_interval=5000']
    command = ['bash', 'tools/dist_train.sh', workshop.config(), '1']
    return [
        machines.start(
            rank,
            workshop.folder / f'log{rank}',
            *command,
            *('--work-dir', str(workshop.folder / f'work{rank}')),
            *('--cfg-options', *options, 'default_hooks.checkpoint.interval=1000'),
        )
        for rank in (0, 1)
    ]


def test_gloo_finds_the_interface(machines: Machines, workshop: Workshop):
    processes = start_both(machines, workshop, epochs=2)
    codes = [process.wait(timeout=600) for process in processes]
    logs = [(workshop.folder / f'log{rank}').read_text() for rank in (0, 1)]
    assert codes == [0, 0], logs[0][-2000:] + logs[1][-2000:]
    for log, cable in zip(logs, machines.cables):
        assert log.count(f'GLOO_SOCKET_IFNAME={cable}: the network interface of') == 1


def test_a_cut_link_ends_both_with_a_sentence(machines: Machines, workshop: Workshop):
    processes = start_both(machines, workshop, epochs=5000)
    log = workshop.folder / 'log0'
    end = time.monotonic() + 600
    while not re.search(r'Epoch\(train\) +\[3\]', log.read_text()):
        assert time.monotonic() < end and processes[0].poll() is None, log.read_text()[-2000:]
        time.sleep(0.2)
    machines.cut()
    start = time.monotonic()
    codes = [process.wait(timeout=LIMIT + 600) for process in processes]
    took = time.monotonic() - start
    assert codes == [1, 1]
    # torchrun looks after its processes every five seconds.
    assert took < LIMIT + patience(20)
    for rank in (0, 1):
        text = (workshop.folder / f'log{rank}').read_text()
        assert f'Rank {rank} of 2 on host ' in text
        assert f'time limit of {LIMIT} s (rendezvous address: {ADDRESSES[0]}:29500; torch: ' in text
        assert 'Traceback' not in text


def test_a_machine_that_does_not_come(machines: Machines, workshop: Workshop):
    process = machines.start(
        1,
        workshop.folder / 'log1',
        *('bash', 'tools/dist_train.sh', workshop.config(), '1'),
        *('--work-dir', str(workshop.folder / 'work1')),
        limit=3,  # nobody has to come in time
    )
    assert process.wait(timeout=600) == 1
    text = (workshop.folder / 'log1').read_text()
    assert 'Error: Machine 1 of 2 on host ' in text
    assert f'the time limit of 3 s (rendezvous address: {ADDRESSES[0]}:29500; torch: ' in text
    assert 'Traceback' not in text
