# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""From CIFAR-10's photographs to a detector and a segmentor, through the real configs."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from warm_python import tool_python

from mtkdrl_mm.models.build_classifier import build_classifier, read_network_config

from ..conftest import ROOT, environment

pytestmark = pytest.mark.slow

CLASSES = Config.fromfile(ROOT / 'configs' / '_base_' / 'datasets' / 'cifar10_info.py').classes


def write_sample(folder: Path) -> None:
    """Three images a class, in the folders and lists that cifar10.py writes."""
    rng = np.random.default_rng(0)
    for split, listed in (('train', 'student'), ('val', 'val')):
        lines = []
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(3):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f'{number}.png')
                lines.append(f'{name}/{number}.png {label}\n')
        (folder / 'meta').mkdir(exist_ok=True)
        (folder / 'meta' / f'{listed}.txt').write_text(''.join(lines))


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [tool_python(), *command],
        cwd=ROOT,
        env=environment(CIFAR10_STUDENTS=str(folder / 'students')),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With scenes, and with a student as training leaves it."""
    folder = tmp_path_factory.mktemp('photographs')
    write_sample(folder / 'sample')
    run(
        folder,
        'tools/dataset_converters/make_scenes.py',
        str(folder / 'scenes'),
        *('--train', '4', '--val', '2', '--photographs', str(folder / 'sample')),
    )
    network, _ = read_network_config(dict(cfg_path='configs/cifar10/student_baseline.py'), 'it')
    student = build_classifier(network, None, None, 'it').state_dict()
    (folder / 'students' / 'mtkdrl' / 'seed_0').mkdir(parents=True)
    torch.save(
        dict(state_dict={f'student.{key}': value for key, value in student.items()}),
        folder / 'students' / 'mtkdrl' / 'seed_0' / 'epoch_12.pth',
    )
    return folder


@pytest.mark.parametrize(('task', 'root'), [('detector', 'coco'), ('segmentor', 'cityscapes')])
def test_a_distilled_backbone_learns_slowly(folder, task, root):
    scenes = folder / 'scenes' / root
    work_dir = folder / task
    options = [f'data_root={scenes}/', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
    options += ['default_hooks.checkpoint.interval=1']
    log = run(
        folder,
        'tools/train.py',
        f'configs/cifar10/{task}.py',
        *('--work-dir', str(work_dir), '--cfg-options', *options),
    )
    # One step, and an evaluation.
    assert 'Epoch(val) [1]' in log
    before = torch.load(folder / 'students' / 'mtkdrl' / 'seed_0' / 'epoch_12.pth')['state_dict']
    after = torch.load(work_dir / 'epoch_1.pth')['state_dict']
    changed = 0.0
    for key, value in after.items():
        if not key.startswith('backbone.'):
            continue
        old = before[f'student.{key}']
        if 'running' in key:
            assert torch.equal(value, old), key
        elif value.is_floating_point():
            changed = max(changed, float((value - old).abs().max()))
    # One AdamW step of a tenth of 2e-3; weight decay adds next to nothing.
    assert changed == pytest.approx(2e-4, rel=0.1)


@pytest.mark.parametrize('task', ['detector', 'segmentor'])
def test_a_variable_chooses_the_backbone(task, monkeypatch):
    configs = []
    for method in ('baseline', 'aver', 'mtkdrl'):
        monkeypatch.setenv('BACKBONE', method)
        monkeypatch.setenv('RUN_SEED', '3')
        cfg = Config.fromfile(ROOT / 'configs' / 'cifar10' / f'{task}.py').to_dict()
        checkpoint = cfg['model']['backbone']['init_cfg'].pop('checkpoint')
        assert checkpoint == f'work_dirs/compare_cifar10_weak/{method}/seed_3/epoch_12.pth'
        assert cfg.pop('variant') == method
        configs.append(cfg)
    for cfg in configs:
        del cfg['distilled_backbone']
    assert configs[0] == configs[1] == configs[2]
