# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Several processes do what one does."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .conftest import (
    ROOT,
    Workshop,
    environment,
    largest_difference,
    relative_difference,
    weights_of,
)

pytestmark = pytest.mark.slow


def test_two_processes_equal_one(workshop: Workshop):
    config = workshop.config(augment=[])
    flags = ['--cfg-options', 'train_cfg.max_epochs=3']
    one = workshop.train(config, '--work-dir', str(workshop.folder / 'one'), *flags)
    assert one.returncode == 0, one.stderr[-2000:]
    two = workshop.run(
        'bash',
        'tools/dist_train.sh',
        config,
        '2',
        '--work-dir',
        str(workshop.folder / 'two'),
        *flags,
        'train_dataloader.batch_size=4',
        env=dict(PORT='29617'),
    )
    assert two.returncode == 0, two.stderr[-3000:]
    first = torch.load(workshop.folder / 'one' / 'epoch_3.pth')
    second = torch.load(workshop.folder / 'two' / 'epoch_3.pth')
    start = weights_of(workshop.folder / 'two' / 'epoch_1.pth')
    assert relative_difference(first['state_dict'], second['state_dict'], start) < 1e-3
    assert second['agent_hook']['algorithm']['updates'] == 3
    # The agent has moved, so that its equality says something.
    agent = [k for k in start if k.startswith('weighting.agent.networks')]
    moved = {k: second['state_dict'][k] for k in agent}
    assert largest_difference({k: start[k] for k in agent}, moved) > 1e-3

    tested = workshop.run(
        'bash',
        'tools/dist_test.sh',
        config,
        str(workshop.folder / 'two' / 'epoch_3.pth'),
        '2',
        '--work-dir',
        str(workshop.folder / 'tested'),
        env=dict(PORT='29618'),
    )
    assert tested.returncode == 0, tested.stderr[-3000:]
    assert 'accuracy/top1' in tested.stdout


HELD_OUT = """
held_out_dataloader = dict(
    batch_size=10, num_workers=0, collate_fn=dict(type='default_collate'),
    dataset=dict(train_dataloader['dataset'], data_prefix='val', indices=15))
default_hooks['agent'].update(experience='held_out')
"""


def test_an_odd_number_of_held_out_images(workshop: Workshop):
    config = workshop.config(extra=HELD_OUT)
    work_dirs = [workshop.folder / name for name in ('one', 'two')]
    flags = ['--cfg-options', 'train_cfg.max_epochs=2']
    one = workshop.train(config, '--work-dir', str(work_dirs[0]), *flags)
    assert one.returncode == 0, one.stderr[-2000:]
    sizes = ['train_dataloader.batch_size=4', 'held_out_dataloader.batch_size=5']
    command = ['bash', 'tools/dist_train.sh', config, '2', '--work-dir', str(work_dirs[1])]
    two = workshop.run(*command, *flags, *sizes)
    assert two.returncode == 0, two.stderr[-3000:]
    logged = []
    for run, work_dir in zip((one, two), work_dirs):
        assert 'Agent update 2 from 15 of 15 images' in run.stdout
        (scalars,) = work_dir.glob('*/vis_data/scalars.json')
        last = json.loads(scalars.read_text().splitlines()[-2])  # before the validation
        logged.append([last[key] for key in ('reward', 'reward/teacher0', 'reward/teacher1')])
    assert logged[0] == pytest.approx(logged[1], rel=1e-4)
    first, second = (weights_of(work_dir / 'epoch_2.pth') for work_dir in work_dirs)
    start = weights_of(work_dirs[1] / 'epoch_1.pth')
    # Rounding may let an image count for a hidden unit or not (0.01); an image less makes 0.6.
    assert relative_difference(first, second, start) < 0.05


def test_a_signal_to_all_processes_saves_all_buffers(workshop: Workshop):
    config = workshop.config()
    work_dir = workshop.folder / 'cut'
    command = ['bash', 'tools/dist_train.sh', config, '2', '--work-dir', str(work_dir)]
    options = ['default_hooks.agent.update_interval=7', 'train_dataloader.batch_size=4']
    cut = ['--cfg-options', *options, 'train_cfg.max_epochs=60']
    process = subprocess.Popen(
        [*command, *cut],
        cwd=ROOT,
        env=environment(fresh=True, PORT='29641'),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if 'Epoch(train)  [2][2/4]' in line:
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stdout.read()
    process.wait(timeout=600)
    assert 'SIGTERM received: saved interrupted_iter_' in rest
    (saved,) = work_dir.glob('interrupted_iter_*.pth')
    checkpoint = torch.load(saved)
    iteration = checkpoint['meta']['iter']
    seen = [buffer['seen'] for buffer in checkpoint['agent_hook']['buffers']]
    assert seen == [4 * (iteration % 7)] * 2 and seen[0] > 0

    epochs = iteration // 4 + 2
    full = ['--cfg-options', *options, f'train_cfg.max_epochs={epochs}']
    resumed = workshop.run(*command, '--resume', *full, env=dict(PORT='29642'))
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    command[-1] = str(workshop.folder / 'whole')
    whole = workshop.run(*command, *full, env=dict(PORT='29643'))
    assert whole.returncode == 0, whole.stderr[-3000:]
    first = weights_of(workshop.folder / 'whole' / f'epoch_{epochs}.pth')
    second = weights_of(work_dir / f'epoch_{epochs}.pth')
    assert largest_difference(first, second) < 1e-6


def test_processes_end_with_the_code_of_their_tool_every_time():
    """In some versions of torch, gloo may abort a process whose model outlives its group."""
    script = Path(__file__).with_name('end_processes.py')
    result = subprocess.run(
        [sys.executable, str(script), '20'],
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    codes = json.loads(result.stdout)
    # Rank 0 and rank 1; Python's exit code of an error is 1.
    assert codes == {'well': 7 * [[0, 0]], 'input error': 7 * [[1, 1]], 'fault': 6 * [[1, 1]]}
    assert result.stderr.count('Error (process 1 of 2): No such file.') == 7
    # Once in the line of the code and once in the message; two processes mix their pieces.
    assert result.stderr.count("'No such file.'") == 2 * 12
    assert 'terminate called' not in result.stderr
