# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Every method and algorithm trains, in one process and in two, and resumes exactly."""

import glob
import os.path as osp
import socket
import subprocess
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from warm_python import tool_python

from .conftest import ROOT, Workshop, environment, largest_difference, weights_of

pytestmark = pytest.mark.slow

DEMO = ROOT / 'configs' / 'demo'
METHODS = sorted(
    osp.basename(path)[len('student_') : -len('.py')]
    for path in glob.glob(str(DEMO / 'student_*.py'))
    if 'baseline' not in path
)
EPOCHS = 3
# How far two processes may be from one. In float64, sums in another order end 2e-16 apart.
TOLERANCE = 1e-12
# Methods that see a batch as a whole, which each process does with its own.
NOT_EQUAL = {
    # DIST correlates the images of a batch
    'mtkdrl_dist',
    # similarities between the images of a batch, and a buffer of hard images per process
    'mmkd',
}


def write_config(workshop: Workshop, method: str) -> str:
    """The tiny config with what a demo config adds to its base."""
    demo = Config.fromfile(DEMO / f'student_{method}.py')
    base = Config.fromfile(DEMO.parent / '_base_' / 'recipes' / 'digits.py')
    cfg = Config.fromfile(workshop.config('base', augment=[]))
    del cfg.model['weighting'], cfg.default_hooks['agent']
    for part in ('model', 'default_hooks'):
        cfg[part].update({k: v for k, v in demo[part].items() if k not in base[part]})
    cfg.train_cfg = dict(type='mtkdrl_mm.ResumableEpochLoop', max_epochs=EPOCHS)
    cfg.default_hooks.checkpoint.save_begin = EPOCHS - 1
    # What takes long and says nothing here: validation, and packing 32 file names.
    for part in ('val', 'test'):
        cfg[f'{part}_cfg'] = cfg[f'{part}_dataloader'] = cfg[f'{part}_evaluator'] = None
    cfg.train_dataloader.dataset.serialize_data = False
    # For agents that learn from other images than the student.
    cfg.held_out_dataloader = deepcopy(cfg.train_dataloader)
    del cfg.held_out_dataloader['sampler']
    path = workshop.folder / f'{method}.py'
    cfg.dump(path)
    return str(path)


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All methods, trained in one process (folder "1") and in two (folder "2")."""
    workshop = Workshop(tmp_path_factory.mktemp('methods'))
    configs = [write_config(workshop, method) for method in METHODS]
    script = str(Path(__file__).with_name('train_methods.py'))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    group = ['-m', 'torch.distributed.run', '--nproc_per_node=2', f'--master_port={port}']
    runs = []
    for launcher, name, flags in (([], '1', []), (group, '2', ['--launcher', 'pytorch'])):
        command = [tool_python(), *launcher, script, str(workshop.folder / name), *flags]
        log = open(workshop.folder / f'{name}.log', 'w')
        process = subprocess.Popen(
            [*command, '--configs', *configs],
            cwd=ROOT,
            env=environment(PYTHONPATH=str(ROOT)),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        runs.append((process, log))
    try:
        for process, log in runs:
            assert process.wait(timeout=600) == 0, Path(log.name).read_text()[-3000:]
    finally:
        for process, log in runs:
            process.kill()
            log.close()
    return workshop.folder


@pytest.mark.parametrize('processes', ['1', '2'])
@pytest.mark.parametrize('method', METHODS)
def test_every_method_trains_and_resumes_exactly(trained: Path, method, processes):
    folder = trained / processes / method
    assert not (folder / 'error.txt').exists(), (folder / 'error.txt').read_text()
    whole = weights_of(folder / f'epoch_{EPOCHS}.pth')
    resumed = weights_of(trained / processes / f'{method}_resumed' / f'epoch_{EPOCHS}.pth')
    assert largest_difference(whole, resumed) == 0
    assert all(torch.isfinite(value).all() for value in whole.values())
    # Every trained part has moved in the epoch that was trained twice.
    before = weights_of(folder / f'epoch_{EPOCHS - 1}.pth')
    for part in {key.split('.')[0] for key in whole}:
        keys = [key for key in whole if key.startswith(f'{part}.')]
        moved = largest_difference({k: before[k] for k in keys}, {k: whole[k] for k in keys})
        assert moved > 1e-4, part


@pytest.mark.parametrize('method', METHODS)
def test_two_processes_hold_the_same_model(trained: Path, method):
    first, second = (torch.load(trained / '2' / method / f'rank_{rank}.pth') for rank in (0, 1))
    assert largest_difference(first, second) == 0


@pytest.mark.parametrize('method', [method for method in METHODS if method not in NOT_EQUAL])
def test_two_processes_equal_one(trained: Path, method):
    one, two = (weights_of(trained / n / method / f'epoch_{EPOCHS}.pth') for n in ('1', '2'))
    assert one.keys() == two.keys()
    for key in one:
        assert largest_difference({key: one[key]}, {key: two[key]}) < TOLERANCE, key
