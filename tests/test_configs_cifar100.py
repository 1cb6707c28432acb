# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The configs of the CIFAR-100 experiments: which there are, and what they build."""

from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

import mtkdrl_mm
from mtkdrl_mm.models import build_pool
from mtkdrl_mm.models.distillers import multi_teacher_distiller
from mtkdrl_mm.models.teachers import PoolSpec
from mtkdrl_mm.models.weightings import Weighting
from mtkdrl_mm.registry import MODELS as OWN_MODELS
from mtkdrl_mm.utils import build_component

ROOT = Path(mtkdrl_mm.__file__).parent.parent / 'configs' / 'cifar100'
TEACHERS = ('regnety_400mf', 'regnetx_400mf', 'resnet32x4', 'wrn_28_4')
STUDENTS = ('regnetx_200mf', 'mobilenetv2', 'shufflenetv2', 'resnet56')
# Every method's weighting.
METHODS = {
    'aver': 'AVER',
    'ebkd': 'EBKD',
    'camkd': 'CAMKD',
    'aekd': 'AEKD',
    'mmkd': 'MMKD',
    'mtkdrl': 'MTKDRL',
    'mtkdrl_stacking': 'MTKDRL',
    'mtkdrl_as_released': 'MTKDRL',
}
DISTILLED = [f'student_{method}' for method in METHODS]
PLAIN = ['student_baseline', *STUDENTS, *(f'teacher_{t}' for t in TEACHERS)]


@cache
def read(name, student=None):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv('STUDENT', raising=False)
        if student:
            patch.setenv('STUDENT', student)
        return Config.fromfile(ROOT / f'{name}.py')


@pytest.fixture(scope='module')
def build():
    """Function that builds a config's model; the pool is the same in all of them.

    Drawing random weights would take longer than all else.
    """
    pools = []

    def make_pool(teachers, *arguments, **settings):
        assert [teacher['name'] for teacher in teachers] == list(TEACHERS)
        if not pools:
            pools.append(build_pool(teachers, *arguments, **settings))
        return pools[0]

    with pytest.MonkeyPatch.context() as patch:
        for name in ('kaiming_uniform_', 'kaiming_normal_', 'normal_', 'trunc_normal_', 'uniform_'):
            patch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)
        patch.setattr(multi_teacher_distiller, 'build_pool', make_pool)
        # Configs name those of students and teachers relative to the project.
        patch.chdir(ROOT.parent.parent)
        yield cache(lambda *name: MODELS.build(deepcopy(read(*name).model)))


def test_there_are_all_networks_and_methods():
    assert {path.stem for path in ROOT.glob('*.py')} == {*DISTILLED, *PLAIN}


@pytest.mark.parametrize('student', STUDENTS)
def test_a_variable_chooses_the_student(student, build):
    shapes = {key: value.shape for key, value in build(student).state_dict().items()}
    baseline = build('student_baseline', student)
    assert shapes == {key: value.shape for key, value in baseline.state_dict().items()}
    for method in ('aver', 'mtkdrl'):
        model = build(f'student_{method}', student)
        assert type(model.weighting).__name__ == METHODS[method]
        found = {key: value.shape for key, value in model.student.state_dict().items()}
        assert found == shapes
        assert [t.checkpoint for t in model.teachers] == [
            f'work_dirs/cifar100/teacher_{teacher}/epoch_240.pth' for teacher in TEACHERS
        ]
        assert [type(c).__name__ for c in model.connectors.values()] == ['MapConnector'] * 4


@pytest.mark.parametrize('name', ['student_baseline', *DISTILLED])
def test_the_student_is_part_of_the_work_dir(name):
    assert read(name).variant == 'resnet56'
    assert read(name, 'mobilenetv2').variant == 'mobilenetv2'


@pytest.mark.parametrize('method', METHODS)
def test_methods_differ_in_the_weighting_alone(method):
    cfg, aver = read(f'student_{method}'), read('student_aver')
    assert cfg.model.weighting.type == METHODS[method]
    for key in ('student', 'teachers', 'type'):
        assert cfg.model[key] == aver.model[key]
    assert cfg.model.keys() == aver.model.keys()
    for key in ('train_cfg', 'optim_wrapper', 'param_scheduler', 'train_dataloader'):
        assert cfg[key] == aver[key]


def test_learned_mixing_is_an_option_of_the_published_method():
    cfg = deepcopy(read('student_mtkdrl'))
    cfg.merge_from_dict({'model.weighting.mixing': 'dynamic'})
    pool = PoolSpec(names=('a', 'b'), num_classes=100, embedding_sizes=(4, 6), map_channels=(4, 6))
    weighting = build_component(OWN_MODELS, cfg.model.weighting, Weighting, 'weighting', pool=pool)
    assert type(weighting.agent).__name__ == 'FusedPolicy'
    assert weighting.agent.parts == ('agent', 'confidence', 'divergence')
    assert weighting.agent.mixing.tolist() == [0, 0, 0]  # parameters, equal at the start
    assert 'mixing' in dict(weighting.agent.named_parameters())


def test_pool_as_published(build):
    spec = build('student_aver', 'shufflenetv2').teachers.spec
    assert spec.num_classes == 100
    assert spec.embedding_sizes == spec.map_channels == (384, 384, 256, 256)


@pytest.mark.parametrize('name', DISTILLED + PLAIN)
def test_schedule_and_data_as_published(name):
    cfg = read(name)
    assert cfg.train_cfg.max_epochs == 240 and cfg.train_cfg.type == 'mtkdrl_mm.ResumableEpochLoop'
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum) == ('SGD', 0.05, 0.9)
    assert optimizer.weight_decay == 1e-4
    scheduler = cfg.param_scheduler
    assert (scheduler.milestones, scheduler.gamma) == ([150, 180, 210], 0.1)
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 64
    training, validation = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    assert (training.type, training.split, validation.split) == ('CIFAR100', 'train', 'test')
    crop, flip, _ = training.pipeline
    assert (crop.type, crop.crop_size, crop.padding) == ('RandomCrop', 32, 4)
    assert (flip.type, flip.prob) == ('RandomFlip', 0.5)
    assert cfg.test_dataloader == cfg.val_dataloader
    # The set's images are RGB already, and so are these numbers.
    assert cfg.data_preprocessor.to_rgb is False
    assert cfg.data_preprocessor.mean == [129.304, 124.070, 112.434]
    # The last epoch is validated and saved.
    assert 240 % cfg.train_cfg.val_interval == 0
    assert 240 % cfg.default_hooks.checkpoint.interval == 0
