# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Trainings from stored outputs are those with running teachers, bit by bit."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from .conftest import Workshop, largest_difference

pytestmark = pytest.mark.slow

LOSSLESS = ['--logits', 'float32', '--maps', 'full']


def store(workshop: Workshop, config: str, name: str, *flags: str) -> str:
    root = str(workshop.folder / name)
    done = workshop.tool('tools/store_teacher_outputs.py', config, root, *flags)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root


def forget_teachers(workshop: Workshop) -> None:
    """Delete the teachers' weights, which a store replaces."""
    for teacher in workshop.teachers:
        Path(teacher['checkpoint']).unlink()


def train(workshop: Workshop, config: str, folder: str, *options: str, epochs: int = 3) -> dict:
    flags = ['--work-dir', str(workshop.folder / folder), '--cfg-options', 'randomness.seed=5']
    done = workshop.train(config, *flags, f'train_cfg.max_epochs={epochs}', *options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return torch.load(workshop.folder / folder / f'epoch_{epochs}.pth')


def assert_equal(first: dict, second: dict) -> None:
    """Student, connectors, agent and its buffers, bit by bit."""
    assert largest_difference(first['state_dict'], second['state_dict']) == 0
    one, other = first['agent_hook'], second['agent_hook']
    assert one['algorithm']['updates'] == other['algorithm']['updates'] > 1
    for a, b in zip(one['buffers'], other['buffers'], strict=True):
        assert a['seen'] == b['seen'] > 0
        assert torch.equal(a['states'], b['states'])


@pytest.mark.parametrize('blend', [False, True])
def test_a_lossless_store_changes_no_bit(workshop, blend):
    config = blended(workshop) if blend else workshop.config()
    live = train(workshop, config, 'live', 'model.teacher_outputs.views=2')
    root = store(workshop, config, 'store', '--views', '2', *LOSSLESS)
    forget_teachers(workshop)
    for workers in (0, 2):
        read = train(
            workshop,
            config,
            f'read_{workers}',
            f'model.teacher_outputs={root}',
            f'train_dataloader.num_workers={workers}',
        )
        assert_equal(live, read)


def blended(workshop: Workshop) -> str:
    """A config with mixup and cutmix."""
    path = Path(workshop.config('blended'))
    path.write_text(
        path.read_text()
        + """
data_preprocessor['num_classes'] = 4
model['student']['cfg_options'] = {'model.train_cfg': dict(augments=[
    dict(type='Mixup', alpha=0.4), dict(type='CutMix', alpha=1.0)])}
"""
    )
    Config.fromfile(path)
    return str(path)
