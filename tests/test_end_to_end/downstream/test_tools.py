# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""tools/train.py and tools/test.py on detection and segmentation, as a user runs them."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from mtkdrl_mm.utils.launch import run_tool

from ..conftest import ROOT
from .conftest import write_cityscapes, write_coco

pytestmark = pytest.mark.slow

RETINANET = 'configs/detection/retinanet_r18_fpn_1x_coco.py'
PSPNET = 'configs/segmentation/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
QUICK = ['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0']


@pytest.fixture
def run(monkeypatch):
    """Function that runs a tool of the project in this process; returns its error, if any."""

    def run_in_process(tool: str, *arguments: str) -> str | None:
        spec = importlib.util.spec_from_file_location(f'tool_{tool}', f'{ROOT}/tools/{tool}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, 'argv', [f'tools/{tool}.py', *arguments])
        monkeypatch.setenv('LOCAL_RANK', '0')
        try:
            run_tool(module.main)
        except SystemExit as error:
            return str(error)
        return None

    return run_in_process


def log_of(work_dir: Path) -> str:
    return next(work_dir.glob('*/*.log')).read_text()


def last_value(metric: str, work_dir: Path) -> float:
    """A metric of the last validation in a training's log."""
    return float(re.findall(rf'{metric}: ([\d.]+)', log_of(work_dir))[-1])


@pytest.fixture
def distilled(backbones, tmp_path):
    """A training checkpoint of this package: student, connectors and no more."""
    weights = torch.load(backbones[18])['state_dict']
    student = {f'student.{key}': value for key, value in weights.items()}
    path = tmp_path / 'epoch_100.pth'
    torch.save(dict(state_dict={**student, 'connectors.0.conv.weight': torch.ones(1)}), path)
    return str(path)


def test_detector_on_own_data(distilled, tmp_path, run):
    """Another root, other classes, one checkpoint: what a user has to say, and no more."""
    root = write_coco(tmp_path / 'pets', ['cat', 'dog'], images=4)
    work_dir = tmp_path / 'work'
    options = [f'data_root={root}', 'metainfo.classes=cat,dog']
    options += [f'model.backbone.init_cfg.checkpoint={distilled}', 'train_cfg.max_epochs=1']
    options += ['model.test_cfg.score_thr=0.0', 'train_dataloader.dataset.pipeline.2.scale=(64,64)']
    options += [
        f'{name}.dataset.pipeline.1.scale=(64,64)' for name in ('val_dataloader', 'test_dataloader')
    ]
    options = ['--cfg-options', *QUICK, 'test_dataloader.num_workers=0', *options]
    assert run('train', RETINANET, '--work-dir', str(work_dir), *options) is None
    log = log_of(work_dir)
    assert f'ResNet: loaded 120/120 tensors of {distilled}' in log
    checkpoint = torch.load(work_dir / 'epoch_1.pth')
    assert checkpoint['state_dict']['bbox_head.retina_cls.weight'].shape[0] == 2 * 9
    trained = last_value('coco/bbox_mAP', work_dir)
    assert 0 <= trained <= 1

    # Testing the checkpoint gives the same figures.
    out = tmp_path / 'metrics.json'
    arguments = [str(work_dir / 'epoch_1.pth'), '--out', str(out), '--out-item', 'metrics']
    arguments += ['--work-dir', str(tmp_path / 'test')]
    assert run('test', RETINANET, *arguments, *options) is None
    assert json.loads(out.read_text())['coco/bbox_mAP'] == trained


def test_segmentor_in_cityscapes_layout(distilled, tmp_path, run):
    root = write_cityscapes(tmp_path / 'streets')
    work_dir = tmp_path / 'work'
    options = [f'data_root={root}', f'model.backbone.init_cfg.checkpoint={distilled}']
    options += ['train_cfg.max_iters=1', 'train_cfg.val_interval=1']
    options += ['train_dataloader.dataset.pipeline.2.scale=(128,64)']
    options += ['train_dataloader.dataset.pipeline.3.crop_size=(64,64)']
    options += ['val_dataloader.dataset.pipeline.1.scale=(128,64)']
    options += ['model.data_preprocessor.size=(64,64)']
    options = ['--work-dir', str(work_dir), '--cfg-options', *QUICK, *options]
    assert run('train', PSPNET, *options) is None
    assert f'ResNet: loaded 120/120 tensors of {distilled}' in log_of(work_dir)
    assert 0 <= last_value('mIoU', work_dir) <= 100


GOOD = 'model.backbone.init_cfg.checkpoint={r18}'
PETS = 'data_root={pets}'
CAT_DOG = 'metainfo.classes=cat,dog'


@pytest.mark.parametrize(
    ('config', 'options', 'message'),
    [
        (RETINANET, ['data_root=nowhere', GOOD], 'The data folder "nowhere"'),
        (
            RETINANET,
            [PETS, 'metainfo.classes=cat,cow', GOOD],
            'Of the classes cat, cow, the annotation file',
        ),
        (RETINANET, [PETS, CAT_DOG, GOOD + 'x'], 'does not exist'),
        (RETINANET, [PETS, CAT_DOG, GOOD.replace('r18', 'r34')], 'Only in the file: layer1.2'),
        (RETINANET, [PETS, GOOD], 'its `categories` are cat, dog. Use the names'),
        (PSPNET, ['data_root={streets}', GOOD], 'has the labels 33'),
        (
            PSPNET,
            ['data_root={streets}', 'metainfo.classes=tree,sea', GOOD],
            'This type of data set has its own classes',
        ),
        (PSPNET, ['data_root={streets}', GOOD, 'model.backbone.type=ResNetV1c'], 'deep stem'),
    ],
)
def test_bad_input_is_one_sentence(config, options, message, backbones, tmp_path, run):
    """Nothing is trained, and no traceback is shown."""
    places = dict(
        pets=write_coco(tmp_path / 'pets', ['cat', 'dog']),
        streets=write_cityscapes(tmp_path / 'streets', values=(0, 1, 33)),
        r18=backbones[18],
        r34=backbones[34],
    )
    options = [option.format(**places) for option in options]
    work_dir = tmp_path / 'work'
    error = run('train', config, '--work-dir', str(work_dir), '--cfg-options', *QUICK, *options)
    assert error is not None and error.startswith('\nError: ')
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not list(work_dir.glob('*.pth'))
