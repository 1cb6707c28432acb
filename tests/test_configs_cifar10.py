# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The configs of the CIFAR-10 sample: pools of teachers, their trainings, noisy labels."""

import math
import re
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmpretrain.datasets import CIFAR10
from mmpretrain.structures import DataSample

import mtkdrl_mm
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.launch import read_config_file

PROJECT = Path(mtkdrl_mm.__file__).parent.parent
ROOT = PROJECT / 'configs' / 'cifar10'
POOLS = {
    'weak': ['resnet', 'densenet', 'repvgg', 'weak'],
    'clean': ['resnet', 'densenet', 'repvgg', 'regnet'],
    'confused': ['resnet', 'densenet', 'repvgg', 'regnet'],
    'coarse': ['coarse_resnet', 'coarse_densenet', 'coarse_repvgg', 'coarse_regnet'],
    'memorising': ['resnet', 'densenet', 'repvgg', 'memorising'],
    'specialists': ['resnet', 'regnet', 'specialist_a', 'specialist_b'],
    'duplicates': ['repvgg', 'repvgg_2', 'repvgg_3', 'resnet'],
    'pair': ['repvgg', 'resnet'],
    'calibration': ['smoothed', 'overconfident', 'densenet', 'repvgg'],
}
TEACHERS = sorted(path.stem for path in ROOT.glob('teacher_*.py'))
STUDENTS = sorted(path.stem for path in ROOT.glob('student_*.py'))


@cache
def read(name, **variables):
    with pytest.MonkeyPatch.context() as patch:
        for variable in ('CIFAR10_POOL', 'CIFAR10_LABELS', 'NUM_TEACHERS'):
            patch.delenv(variable, raising=False)
        for variable, value in variables.items():
            patch.setenv(variable if variable == 'NUM_TEACHERS' else f'CIFAR10_{variable}', value)
        return Config.fromfile(ROOT / f'{name}.py')


def test_the_readme_lists_every_pool():
    pools = (ROOT.parent / '_base_' / 'pools').glob('cifar10_*.py')
    assert {path.stem.removeprefix('cifar10_') for path in pools} == set(POOLS)
    listed = re.findall(
        r'\[`(\w+)`\]\(\S+/pools/cifar10_(\w+)\.py\)', (ROOT / 'README.md').read_text()
    )
    assert listed == [(pool, pool) for pool in POOLS]


@pytest.mark.parametrize('pool', POOLS)
def test_teachers_of_a_pool(pool, monkeypatch):
    teachers = read('student_aver', POOL=pool).model.teachers
    assert [teacher.name for teacher in teachers] == POOLS[pool]
    for teacher in teachers:
        # What the training of this config leaves in its default work dir.
        name = Path(teacher.cfg_path).stem
        training = read(name)
        assert training.get('variant') is None
        last = training.train_cfg.max_epochs
        assert teacher.checkpoint == f'work_dirs/cifar10/{name}/epoch_{last}.pth'
        assert last % training.default_hooks.checkpoint.interval == 0
    monkeypatch.chdir(PROJECT)
    teachers = MODELS.build(deepcopy(read('student_aver', POOL=pool).model)).teachers
    assert (teachers.spec.names, teachers.spec.num_classes) == (tuple(POOLS[pool]), 10)
    # The files name the classes of CIFAR-10, which one pool confuses on purpose.
    for teacher in teachers:
        teacher.classes = list(CIFAR10.METAINFO['classes'])
    teachers.check_classes(CIFAR10.METAINFO['classes'])


def test_duplicates_are_one_network():
    *copies, other = read('student_aver', POOL='duplicates').model.teachers
    assert len({(teacher.cfg_path, teacher.checkpoint) for teacher in copies}) == 1
    assert other.checkpoint != copies[0].checkpoint


def test_first_teachers_of_a_pool():
    cfg = read('student_aver', POOL='specialists', NUM_TEACHERS='2')
    assert [teacher.name for teacher in cfg.model.teachers] == POOLS['specialists'][:2]
    assert cfg.variant == 'specialists_clean_first_2'
    assert read('student_aver', POOL='specialists').variant == 'specialists_clean'


@pytest.mark.parametrize('folder', ['cifar10', 'demo'])
@pytest.mark.parametrize('number', ['0', '-1', '5', 'two'])
def test_a_number_of_teachers_that_the_pool_does_not_have_is_refused(folder, number, monkeypatch):
    monkeypatch.setenv('NUM_TEACHERS', number)
    with pytest.raises(InputError) as error:
        read_config_file(str(ROOT.parent / folder / 'student_aver.py'))
    assert f'NUM_TEACHERS is {number}, but the pool has 4 teachers' in str(error.value)


@pytest.mark.parametrize('name', TEACHERS)
def test_schedules_end_with_the_training(name):
    cfg = read(name)
    warmup, cosine = cfg.param_scheduler
    epochs = cfg.train_cfg.max_epochs
    assert (warmup.end, cosine.T_max) == (1, epochs)
    assert cfg.train_cfg.val_interval == cfg.default_hooks.checkpoint.interval == epochs
    # The same optimiser as that of all networks here.
    assert cfg.optim_wrapper == read('student_baseline').optim_wrapper


LISTS = {
    'weak': 'train_noisy',
    'memorising': 'student',
    'specialist_a': 'specialist_a',
    'specialist_b': 'specialist_b',
    'coarse_resnet': 'coarse_animals',
    'coarse_densenet': 'coarse_animals',
    'coarse_repvgg': 'coarse_animals',
    'coarse_regnet': 'coarse_vehicles',
}


@pytest.mark.parametrize('name', TEACHERS)
def test_images_of_a_teacher(name):
    cfg = read(name)
    expected = LISTS.get(name.removeprefix('teacher_'), 'train')
    assert cfg.train_dataloader.dataset.ann_file == f'meta/{expected}.txt'
    random = [step.type for step in cfg.train_dataloader.dataset.pipeline if 'Random' in step.type]
    memorising = name == 'teacher_memorising'
    assert random == ([] if memorising else ['RandomCrop', 'RandomFlip'])
    # The test images are always the same ones, as they are.
    assert cfg.val_dataloader == read('student_baseline').val_dataloader


@pytest.mark.parametrize(
    ('name', 'network', 'differs'),
    [
        ('memorising', 'repvgg', False),
        ('coarse_resnet', 'resnet', False),
        ('coarse_densenet', 'densenet', False),
        ('coarse_repvgg', 'repvgg', False),
        ('coarse_regnet', 'regnet', False),
        ('specialist_a', 'densenet', False),
        ('specialist_b', 'repvgg', False),
        ('overconfident', 'resnet', False),
        ('smoothed', 'densenet', True),
    ],
)
def test_networks_are_those_of_other_teachers(name, network, differs):
    model, other = read(f'teacher_{name}').model, read(f'teacher_{network}').model
    assert model.backbone == other.backbone
    assert (model.head != other.head) == differs
    assert model.head.in_channels == other.head.in_channels


def test_smoothed_targets():
    """The loss is that of 0.73 for the right class and 0.03 for each of the nine others."""
    head = MODELS.build(deepcopy(read('teacher_smoothed').model)).head
    head.init_weights()
    features = torch.linspace(-1, 1, 168)[None]
    with torch.no_grad():
        head.fc.weight.mul_(100)
        loss = head.loss((features,), [DataSample().set_gt_label(4)])['loss']
        scores = head((features,)).log_softmax(dim=1)[0]
    assert scores.max() - scores.min() > 1
    others = scores.sum() - scores[4]
    assert loss.item() == pytest.approx(-(0.73 * scores[4] + 0.03 * others).item(), rel=1e-5)
    # Logits are best where they reproduce the targets: a distance of log(0.73 / 0.03).
    best = torch.zeros(1, 10)
    best[0, 4] = math.log(0.73 / 0.03)
    best.requires_grad_()
    head.loss_module(best, torch.tensor([4])).backward()
    assert best.grad.abs().max().item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('name', STUDENTS)
def test_variables_choose_labels_and_are_part_of_the_work_dir(name):
    alone = name == 'student_baseline'
    files = dict(clean='student', noisy='student_noisy')
    files.update({f'{k}_and_held_out': f'{v}_and_held_out' for k, v in files.items()})
    for labels, file in files.items():
        cfg = read(name, LABELS=labels)
        assert cfg.train_dataloader.dataset.ann_file == f'meta/{file}.txt'
        assert cfg.val_dataloader.dataset.ann_file == 'meta/val.txt'
        assert cfg.variant == (labels if alone else f'weak_{labels}')
    assert read(name).variant == read(name, LABELS='clean').variant
    both = read(name, POOL='confused', LABELS='noisy').variant
    assert both == ('noisy' if alone else 'confused_noisy')
