# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The real CIFAR-100 configs, on a set of CIFAR-100's format and with untrained teachers."""

import json
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain import get_model
from warm_python import tool_python

from mtkdrl_mm.models.build_classifier import build_classifier, read_network_config

from .conftest import ROOT, environment

pytestmark = pytest.mark.slow

TEACHERS = ('regnety_400mf', 'regnetx_400mf', 'resnet32x4', 'wrn_28_4')
# mmpretrain's data set, but for the checksums of the one real set.
DATA_SET = """
from mmpretrain.datasets import CIFAR100

class Generated(CIFAR100):
    train_list = [['train', None]]
    test_list = [['test', None]]
"""


def run(folder: Path, *command: str) -> None:
    done = subprocess.run(
        [tool_python(), *command],
        cwd=ROOT,
        env=environment(PYTHONPATH=f'{ROOT}:{folder}', STUDENT='mobilenetv2'),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def write_data(folder: Path) -> None:
    """12 training and 8 test images, in the files that Krizhevsky's archive unpacks to."""
    (folder / 'cifar-100-python').mkdir()
    rng = np.random.default_rng(0)
    for split, count in (('train', 12), ('test', 8)):
        pixels = rng.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)
        labels = [int(label) for label in rng.integers(0, 100, count)]
        with open(folder / 'cifar-100-python' / split, 'wb') as file:
            pickle.dump(dict(data=pixels, fine_labels=labels), file)
    (folder / 'generated_cifar.py').write_text(DATA_SET)


def test_two_epochs_of_a_student_with_all_four_teachers(tmp_path):
    write_data(tmp_path)
    options = ['train_cfg.max_epochs=2', 'train_cfg.val_interval=1']
    options += ['default_hooks.checkpoint.interval=1', 'default_hooks.logger.interval=1']
    for loader in ('train', 'val', 'test'):
        options += [
            f'{loader}_dataloader.dataset.type=generated_cifar.Generated',
            f'{loader}_dataloader.dataset.data_root={tmp_path}',
            f'{loader}_dataloader.batch_size=4',
            f'{loader}_dataloader.num_workers=0',
        ]
    for number, name in enumerate(TEACHERS):
        path = tmp_path / f'{name}.pth'
        model, _ = read_network_config(dict(cfg_path=f'configs/cifar100/teacher_{name}.py'), name)
        torch.save(dict(state_dict=build_classifier(model, None, None, name).state_dict()), path)
        options.append(f'model.teachers.{number}.checkpoint={path}')
    work_dir = tmp_path / 'run'
    config = 'configs/cifar100/student_mtkdrl.py'
    run(tmp_path, 'tools/train.py', config, '--work-dir', str(work_dir), '--cfg-options', *options)

    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    steps = [record for record in records if 'loss_ce' in record]
    assert [record['step'] for record in steps] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(record['loss']) for record in steps)
    for level in ('logit', 'feature'):
        weights = np.array(
            [[s[f'teacher_weight/{level}/{name}'] for name in TEACHERS] for s in steps]
        )
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(weights[:3], 0.25, atol=1e-5)  # the warm-up
        assert np.abs(weights[3:] - 0.25).max() > 1e-3
    assert sum('accuracy/top1' in record for record in records) == 2

    # The student leaves as an mmpretrain network, with a neck and a backbone of this package.
    out = tmp_path / 'student.pth'
    run(
        tmp_path,
        'tools/model_converters/export_student.py',
        str(work_dir / 'epoch_2.pth'),
        str(out),
        # the checkpoint's own names a data set that is not installed
        '--config',
        config,
    )
    (exported,) = tmp_path.glob('student-*.pth')
    student = get_model(Config.fromfile(tmp_path / 'student.py'), pretrained=str(exported))
    trained = torch.load(work_dir / 'epoch_2.pth')['state_dict']
    for key, value in student.state_dict().items():
        assert torch.equal(value, trained[f'student.{key}']), key
    assert student(torch.zeros(2, 3, 32, 32)).shape == (2, 100)
