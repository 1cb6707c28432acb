# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Real processes are signalled, killed and resumed elsewhere; nothing is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from waiting import patience
from warm_python import tool_python

from mtkdrl_mm.weights.checkpoint import read_checkpoint

from .conftest import (
    AUGMENT,
    ROOT,
    Workshop,
    environment,
    largest_difference,
    relative_difference,
    weights_of,
)

pytestmark = pytest.mark.slow
KEEP_ONE = 'default_hooks.checkpoint.max_keep_ckpts=1'


def start(command, **env):
    """Start a command in a process group of its own, by a new interpreter."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(fresh=True, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(process, pattern):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return
    pytest.fail(f'{pattern!r} never came:\n{"".join(lines[-20:])}')


def train_command(config, work_dir, processes, *flags, python=None):
    tool = [python or tool_python(), '-u', 'tools/train.py', config]
    if processes > 1:
        tool = ['bash', 'tools/dist_train.sh', config, str(processes)]
    return [*tool, '--work-dir', str(work_dir), *flags]


@pytest.mark.parametrize(
    ('number', 'processes', 'workers'),
    [
        (signal.SIGTERM, 1, 2),
        (signal.SIGINT, 2, 2),
    ],
)
def test_a_signal_to_the_whole_group_saves(workshop: Workshop, number, processes, workers):
    config = workshop.config(workers=workers, augment=AUGMENT)
    work_dir = workshop.folder / 'cut'
    size = f'train_dataloader.batch_size={8 // processes}'
    flags = ['--cfg-options', 'train_cfg.max_epochs=200', size, KEEP_ONE]
    process = start(train_command(config, work_dir, processes, *flags, python=sys.executable))
    wait_for(process, r'Epoch\(train\) +\[2\]\[3/4\]')
    os.killpg(process.pid, number)
    begin = time.time()
    rest = process.stdout.read()
    assert process.wait(timeout=600) == 128 + number, rest[-3000:]
    assert time.time() - begin < patience(25)
    assert f'{number.name} received: saved interrupted_iter_' in rest
    assert 'Traceback' not in rest
    (saved,) = work_dir.glob('interrupted_iter_*.pth')
    assert (work_dir / 'last_checkpoint').read_text() == str(saved)
    epochs = read_checkpoint(str(saved), 'test')['meta']['epoch'] + 2
    flags[1] = f'train_cfg.max_epochs={epochs}'
    resumed = workshop.run(*train_command(config, work_dir, processes, '--resume', *flags))
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    whole = workshop.folder / 'whole'
    reference = workshop.run(*train_command(config, whole, processes, *flags))
    assert reference.returncode == 0, reference.stderr[-3000:]
    first, second = (weights_of(folder / f'epoch_{epochs}.pth') for folder in (whole, work_dir))
    assert largest_difference(first, second) == 0


KILL_AT = """
import os, runpy, signal, sys
import mtkdrl_mm.utils.files, torch
name, point = sys.argv[1:3]
sys.argv = sys.argv[3:]
def die(): os.kill(os.getpid(), signal.SIGKILL)
replace, remove, write = os.replace, os.remove, torch.save
def watched_replace(a, b):
    if name in b and point == 'before the name': die()
    replace(a, b)
    if name in b and point == 'after the name': die()
def watched_remove(path):
    if name in str(path) and point == 'before removing': die()
    remove(path)
    if name in str(path) and point == 'after removing': die()
os.replace, os.remove = watched_replace, watched_remove
if point == 'half written':
    from mmengine.fileio.backends import LocalBackend
    put = LocalBackend.put
    def half(self, obj, filepath):
        if name in str(filepath):
            put(self, obj[: len(obj) // 2], filepath)
            die()
        put(self, obj, filepath)
    LocalBackend.put = half
runpy.run_path('tools/train.py', run_name='__main__')
"""


@pytest.mark.parametrize(
    ('name', 'point'),
    [
        ('epoch_2.pth', 'half written'),
        ('epoch_2.pth', 'after the name'),
        ('last_checkpoint', 'before the name'),
        ('epoch_1.pth', 'before removing'),
    ],
)
def test_killed_inside_a_save(workshop: Workshop, name, point):
    config = workshop.config(workers=2, augment=AUGMENT)
    work_dir = workshop.folder / 'cut'
    flags = ['--work-dir', str(work_dir), '--cfg-options', KEEP_ONE]
    killed = workshop.tool('-c', KILL_AT, name, point, 'tools/train.py', config, *flags)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    resumed = workshop.train(config, *flags[:2], '--resume', *flags[2:])
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    if name != 'last_checkpoint':  # there, nothing at all was saved yet
        assert re.search(r'Resuming from .*epoch_[12]\.pth', resumed.stdout)
    workshop.runner(config, 'whole').train()
    first, second = (
        weights_of(folder / 'epoch_4.pth') for folder in (workshop.folder / 'whole', work_dir)
    )
    assert largest_difference(first, second) == 0
    left = [file.name for file in work_dir.iterdir() if file.name.endswith(('.pth', '.tmp'))]
    assert left == ['epoch_4.pth']


@pytest.mark.parametrize('middle', [False, True])
def test_resumed_by_more_processes(workshop: Workshop, middle):
    """From one process to two of half the batch: the same training, to rounding."""
    config = workshop.config(workers=0, augment=AUGMENT)
    one, two = workshop.folder / 'one', workshop.folder / 'two'
    interval = ['--cfg-options', 'default_hooks.agent.update_interval=3']
    whole = workshop.train(config, '--work-dir', str(one), *interval)
    assert whole.returncode == 0, whole.stderr[-2000:]
    if middle:
        stopped = workshop.tool(
            '-c',
            STOP_AT,
            '6',
            'tools/train.py',
            config,
            '--work-dir',
            str(two),
            *interval,
        )
        assert stopped.returncode == 143, stopped.stderr[-2000:]
    else:
        first = workshop.train(config, '--work-dir', str(two), *interval, 'train_cfg.max_epochs=2')
        assert first.returncode == 0, first.stderr[-2000:]
    resumed = workshop.run(
        *train_command(config, two, 2, '--resume', *interval, 'train_dataloader.batch_size=4')
    )
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert '2 x 4 images per step (processes x batch size) instead of 1 x 8' in resumed.stdout
    first = torch.load(one / 'epoch_4.pth')
    second = torch.load(two / 'epoch_4.pth')
    before = weights_of(one / 'epoch_2.pth')
    assert relative_difference(first['state_dict'], second['state_dict'], before) < 1e-3
    updates = [c['agent_hook']['algorithm']['updates'] for c in (first, second)]
    assert updates == [5, 5]
    assert second['meta']['progress']['world_size'] == 2


STOP_AT = """
import os, runpy, signal, sys
from mmengine.hooks import Hook
from mtkdrl_mm.engine.loops import ResumableEpochLoop
iteration = int(sys.argv[1])
sys.argv = sys.argv[2:]
run_iter = ResumableEpochLoop.run_iter
def stop(self, idx, batch):
    if self._iter + 1 == iteration:
        signal.raise_signal(signal.SIGTERM)
    run_iter(self, idx, batch)
ResumableEpochLoop.run_iter = stop
runpy.run_path('tools/train.py', run_name='__main__')
"""


def test_resumed_with_twice_the_batch(workshop: Workshop):
    config = workshop.config(workers=0, augment=AUGMENT)
    work_dir = workshop.folder / 'run'
    flags = ['--work-dir', str(work_dir)]
    first = workshop.train(config, *flags, '--cfg-options', 'train_cfg.max_epochs=2')
    assert first.returncode == 0, first.stderr[-2000:]
    resumed = workshop.train(
        config, *flags, '--resume', '--cfg-options', 'train_dataloader.batch_size=16'
    )
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert 'Epoch(train) [3][2/2]' in resumed.stdout
    last = torch.load(work_dir / 'epoch_4.pth')
    assert (last['meta']['epoch'], last['meta']['iter']) == (4, 8)
    # trained in every epoch
    for epoch in (3, 4):
        before, after = (weights_of(work_dir / f'epoch_{e}.pth') for e in (epoch - 1, epoch))
        student = [key for key in after if key.startswith('student.')]
        before, after = ({key: w[key] for key in student} for w in (before, after))
        assert largest_difference(before, after) > 1e-4


def test_a_work_dir_in_use_is_refused(workshop: Workshop):
    config = workshop.config()
    flags = ['--work-dir', str(workshop.folder / 'run')]
    process = start(
        [
            sys.executable,
            '-u',
            'tools/train.py',
            config,
            *flags,
            '--cfg-options',
            'train_cfg.max_epochs=500',
        ]
    )
    wait_for(process, r'Epoch\(train\) +\[1\]')
    written = workshop.folder / 'run' / 'tiny.py'
    before = written.read_text()
    second = workshop.train(config, *flags)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert written.read_text() == before and 'max_epochs=500' in before
    assert second.returncode == 1
    assert f'in use by another training (process {process.pid} on' in second.stderr
    assert 'Traceback' not in second.stderr


def test_a_complete_training_is_left_as_it_is(workshop: Workshop):
    config = workshop.config()
    folder = workshop.folder / 'run'
    flags = ['--work-dir', str(folder), '--cfg-options', 'train_cfg.max_epochs=2']
    assert workshop.train(config, *flags).returncode == 0
    before = {f: f.read_bytes() for f in folder.iterdir() if f.suffix in ('.pth', '.json')}
    again = workshop.train(config, *flags[:2], '--resume', *flags[2:])
    assert again.returncode == 0, again.stderr[-2000:]
    assert 'This training is complete: 2 of 2 epochs are done.' in again.stdout
    assert {f: f.read_bytes() for f in before} == before and len(before) == 4


def test_class_weights_of_an_interrupted_epoch_are_whole(workshop: Workshop):
    config = workshop.config(augment=AUGMENT)
    for name, script in (('cut', STOP_AT), ('whole', None)):
        folder = workshop.folder / name
        flags = ['tools/train.py', config, '--work-dir', str(folder)]
        if script:
            stopped = workshop.tool('-c', script, '15', *flags)
            assert stopped.returncode == 143, stopped.stderr[-2000:]
            flags.append('--resume')
        done = workshop.tool(*flags)
        assert done.returncode == 0, done.stderr[-2000:]
    first, second = (
        (workshop.folder / name / 'class_weights.json').read_text() for name in ('cut', 'whole')
    )
    for kind in ('logit', 'feature'):
        a, b = (torch.tensor(json.loads(text)[kind]) for text in (first, second))
        assert torch.allclose(a, b, atol=1e-6) and a.sum() == pytest.approx(4, abs=1e-4)
