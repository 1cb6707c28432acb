# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The configs of the CIFAR-100 experiments: which there are, and what they build."""

from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS

import mtkdrl_mm
from mtkdrl_mm.models import build_pool
from mtkdrl_mm.models.distillers import multi_teacher_distiller

ROOT = Path(mtkdrl_mm.__file__).parent.parent / 'configs' / 'cifar100'
TEACHERS = ('regnety_400mf', 'regnetx_400mf', 'resnet32x4', 'wrn_28_4')
STUDENTS = ('regnetx_200mf', 'mobilenetv2', 'shufflenetv2', 'resnet56')
# Every method's weighting, and the hook that trains it.
METHODS = {
    'aver': ('AVER', None),
    'ebkd': ('EBKD', None),
    'camkd': ('CAMKD', None),
    'aekd': ('AEKD', None),
    'mmkd': ('MMKD', 'MetaLearningHook'),
    'mtkdrl': ('MTKDRL', 'AgentHook'),
    'mtkdrl_dynamic': ('MTKDRL', 'AgentHook'),
    'mtkdrl_paper': ('MTKDRL', 'AgentHook'),
}
DISTILLED = [f'{student}_{method}' for student in STUDENTS for method in METHODS]
PLAIN = [f'{student}_baseline' for student in STUDENTS] + [f'teacher_{t}' for t in TEACHERS]


@cache
def read(name):
    return Config.fromfile(ROOT / f'{name}.py')


@pytest.fixture(scope='module')
def build():
    """Function that builds a config's model; the pool is the same in all of them."""
    pools = []

    def make_pool(teachers, *arguments, **settings):
        assert [teacher['name'] for teacher in teachers] == list(TEACHERS)
        if not pools:
            pools.append(build_pool(teachers, *arguments, **settings))
        return pools[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multi_teacher_distiller, 'build_pool', make_pool)
        yield cache(lambda name: MODELS.build(deepcopy(read(name).model)))


def test_every_student_has_every_method():
    assert {path.stem for path in ROOT.glob('*.py')} == {*DISTILLED, *PLAIN}


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('student', STUDENTS)
def test_distillations_can_be_built(student, method, build):
    name = f'{student}_{method}'
    model, cfg = build(name), read(name)
    kind, hook = METHODS[method]
    assert type(model.weighting).__name__ == kind
    assert [t.checkpoint for t in model.teachers] == [
        f'work_dirs/cifar100/teacher_{teacher}/epoch_240.pth' for teacher in TEACHERS
    ]
    assert [type(connector).__name__ for connector in model.connectors.values()] == [
        'MapConnector'
    ] * 4
    baseline = build(f'{student}_baseline')
    shapes = {key: value.shape for key, value in model.student.state_dict().items()}
    assert shapes == {key: value.shape for key, value in baseline.state_dict().items()}

    own = [hook for hook in cfg.default_hooks.values() if hook.type.startswith('mtkdrl_mm.')]
    names = {type(HOOKS.build(hook)).__name__ for hook in own}
    assert {'TeacherCheckHook', 'TeacherWeightHook', 'FiniteLossHook', 'PreemptionHook'} <= names
    assert names & {'AgentHook', 'MetaLearningHook'} == ({hook} if hook else set())


def test_three_forms_of_mtkdrl(build):
    ours, dynamic, paper = (
        build(f'resnet56_{method}').weighting
        for method in ('mtkdrl', 'mtkdrl_dynamic', 'mtkdrl_paper')
    )
    assert (ours.parts, ours.mixing) == (('agent',), 'fixed')
    assert dynamic.mixing == 'dynamic' and len(dynamic.parts) == 3
    assert paper.mixing == 'fixed' and len(paper.parts) == 3
    assert type(paper.agent).__name__ == 'PerTeacherAgent'
    hooks = read('resnet56_mtkdrl_paper').default_hooks
    assert hooks.agent.reward.type == 'ClosenessReward'


def test_pool_as_published(build):
    spec = build('shufflenetv2_aver').teachers.spec
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
