# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Every method and algorithm trains, resumes exactly, and in two processes."""

import glob
import os.path as osp

import pytest
import torch
from mmengine.config import Config

from .conftest import ROOT, Workshop, largest_difference

pytestmark = pytest.mark.slow

# What the configs under configs/demo change over their base, by their name.
METHODS = sorted(
    osp.basename(path)[len('student_') : -len('.py')]
    for path in glob.glob(str(ROOT / 'configs' / 'demo' / 'student_*.py'))
    if 'baseline' not in path
)


def options_of(method: str) -> dict:
    """Weighting, extra losses and agent hook of a demo config."""
    cfg = Config.fromfile(ROOT / 'configs' / 'demo' / f'student_{method}.py')
    return dict(
        weighting=cfg.model.weighting.to_dict(),
        extra_losses=[dict(c) for c in cfg.model.get('extra_losses', [])],
        agent=cfg.default_hooks.get('agent'),
    )


def runner_of(workshop: Workshop, method: str, work_dir: str, epochs: int, **extra):
    options = options_of(method)
    path = workshop.config()
    if options['agent'] is None:
        with open(path, 'a') as file:
            file.write("\ndel default_hooks['agent']\n")
    else:
        with open(path, 'a') as file:
            file.write(f"\ndefault_hooks['agent'] = {options['agent'].to_dict()!r}\n")
    with open(path, 'a') as file:
        file.write(f"\nmodel['weighting'] = {options['weighting']!r}\n")
        file.write(f"\nmodel['extra_losses'] = {options['extra_losses']!r}\n")
    return workshop.runner(path, work_dir, **{'train_cfg.max_epochs': epochs}, **extra)


@pytest.mark.parametrize('method', METHODS)
def test_every_method_trains_and_resumes_exactly(workshop: Workshop, method):
    runner_of(workshop, method, 'whole', 3).train()
    runner_of(workshop, method, 'parts', 2).train()
    runner_of(workshop, method, 'parts', 3, resume=True).train()
    whole = torch.load(workshop.folder / 'whole' / 'epoch_3.pth')
    parts = torch.load(workshop.folder / 'parts' / 'epoch_3.pth')
    assert largest_difference(whole['state_dict'], parts['state_dict']) == 0
    start = torch.load(workshop.folder / 'whole' / 'epoch_1.pth')['state_dict']
    assert largest_difference(start, whole['state_dict']) > 1e-3
    assert all(torch.isfinite(value).all() for value in whole['state_dict'].values())


@pytest.mark.parametrize(('method', 'tolerance'), [('aekd', 1e-4), ('mtkdrl_ppo', 1e-5)])
def test_two_processes_equal_one(workshop: Workshop, method, tolerance):
    """The batch's combination and the agent's updates are the whole batch's."""
    runner = runner_of(workshop, method, 'one', 2)
    runner.cfg.train_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='PackInputs'),
    ]
    config = str(workshop.folder / 'flat.py')
    runner.cfg.dump(config)
    for name, launch, batch in (('single', [], 8), ('double', ['2'], 4)):
        command = ['bash', 'tools/dist_train.sh', config, *(launch or ['1'])]
        done = workshop.run(
            *command,
            '--work-dir',
            str(workshop.folder / name),
            '--cfg-options',
            f'train_dataloader.batch_size={batch}',
            env=dict(PORT='29631'),
        )
        assert done.returncode == 0, done.stderr[-3000:]
    first = torch.load(workshop.folder / 'single' / 'epoch_2.pth')['state_dict']
    second = torch.load(workshop.folder / 'double' / 'epoch_2.pth')['state_dict']
    assert largest_difference(first, second) < tolerance
