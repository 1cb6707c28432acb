# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""tools/train.py and tools/test.py on detection and segmentation, as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ..test_end_to_end.conftest import ROOT, environment
from .conftest import write_cityscapes, write_coco

pytestmark = pytest.mark.slow

RETINANET = 'configs/detection/retinanet_r18_fpn_1x_coco.py'
PSPNET = 'configs/segmentation/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
QUICK = ['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0']


def run(*command: str) -> 'subprocess.CompletedProcess[str]':
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )


def train(config: str, work_dir: Path, *options: str) -> 'subprocess.CompletedProcess[str]':
    command = ['tools/train.py', config, '--work-dir', str(work_dir)]
    return run(*command, '--cfg-options', *QUICK, *options)


def last_values(work_dir: Path) -> dict[str, float]:
    """The last validation in a training's log."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return json.loads(files[-1].read_text().splitlines()[-1])


@pytest.fixture
def distilled(backbones, tmp_path):
    """A training checkpoint of this package: student, connectors and no more."""
    weights = torch.load(backbones[18])['state_dict']
    student = {f'student.{key}': value for key, value in weights.items()}
    path = tmp_path / 'epoch_100.pth'
    torch.save(dict(state_dict={**student, 'connectors.0.conv.weight': torch.ones(1)}), path)
    return str(path)


def test_detector_on_own_data(distilled, tmp_path):
    """Another root, other classes, one checkpoint: what a user has to say, and no more."""
    root = write_coco(tmp_path / 'pets', ['cat', 'dog'], images=4)
    options = [f'data_root={root}', 'metainfo.classes=cat,dog']
    options += [f'model.backbone.init_cfg.checkpoint={distilled}', 'train_cfg.max_epochs=1']
    options += ['model.test_cfg.score_thr=0.0']
    done = train(RETINANET, tmp_path / 'work', *options)
    assert done.returncode == 0, done.stderr
    assert 'ResNet: loaded 120/120 tensors from ' + distilled in done.stdout
    assert 'model.bbox_head.num_classes: 2, the number of classes given.' in done.stdout
    checkpoint = torch.load(tmp_path / 'work' / 'epoch_1.pth')
    assert checkpoint['state_dict']['bbox_head.retina_cls.weight'].shape[0] == 2 * 9
    trained = last_values(tmp_path / 'work')
    assert 0 <= trained['coco/bbox_mAP'] <= 1

    # Testing the checkpoint gives the same figures.
    command = ['tools/test.py', RETINANET, str(tmp_path / 'work' / 'epoch_1.pth')]
    command += ['--out', str(tmp_path / 'metrics.json'), '--out-item', 'metrics']
    command += ['--cfg-options', *options, 'test_dataloader.num_workers=0']
    tested = run(*command)
    assert tested.returncode == 0, tested.stderr
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert metrics['coco/bbox_mAP'] == trained['coco/bbox_mAP']


def test_segmentor_in_cityscapes_layout(distilled, tmp_path):
    root = write_cityscapes(tmp_path / 'streets')
    options = [f'data_root={root}', f'model.backbone.init_cfg.checkpoint={distilled}']
    options += ['train_cfg.max_iters=1', 'train_cfg.val_interval=1']
    options += ['train_dataloader.dataset.pipeline.2.scale=(128,64)']
    options += ['train_dataloader.dataset.pipeline.3.crop_size=(64,64)']
    options += ['val_dataloader.dataset.pipeline.1.scale=(128,64)']
    options += ['model.data_preprocessor.size=(64,64)']
    done = train(PSPNET, tmp_path / 'work', *options)
    assert done.returncode == 0, done.stderr
    assert 'ResNet: loaded 120/120 tensors from ' + distilled in done.stdout
    assert 0 <= last_values(tmp_path / 'work')['mIoU'] <= 100


def test_bad_input_is_one_sentence(backbones, tmp_path):
    """Nothing is trained, and no traceback is shown."""
    pets = write_coco(tmp_path / 'pets', ['cat', 'dog'])
    streets = write_cityscapes(tmp_path / 'streets', values=(0, 1, 33))
    good = f'model.backbone.init_cfg.checkpoint={backbones[18]}'
    cases = [
        (RETINANET, ['data_root=nowhere', good], 'The data folder "nowhere"'),
        (
            RETINANET,
            [f'data_root={pets}', 'metainfo.classes=cat,cow', good],
            'Of the classes cat, cow, the annotation file',
        ),
        (
            RETINANET,
            [f'data_root={pets}', 'metainfo.classes=cat,dog', f'{good[:-1]}x'],
            'does not exist',
        ),
        (
            RETINANET,
            [
                f'data_root={pets}',
                'metainfo.classes=cat,dog',
                good.replace(backbones[18], backbones[34]),
            ],
            'Only in the file: layer1.2',
        ),
        (PSPNET, [f'data_root={streets}', good], 'has the labels 33'),
        (
            PSPNET,
            [f'data_root={streets}', 'metainfo.classes=tree,sea', good],
            'This type of data set has its own classes',
        ),
        (PSPNET, [f'data_root={streets}', good, 'model.backbone.type=ResNetV1c'], 'deep stem'),
    ]
    for number, (config, options, message) in enumerate(cases):
        work_dir = tmp_path / str(number)
        done = train(config, work_dir, *options)
        assert done.returncode == 1, message
        assert done.stderr.strip().splitlines()[-1].startswith('Error: '), done.stderr
        assert message in done.stderr
        assert 'Traceback' not in done.stderr, done.stderr
        assert not list(work_dir.glob('*.pth'))
