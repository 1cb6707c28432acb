# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A checkpoint of another training is not resumed."""

import copy
from dataclasses import replace

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mtkdrl_mm.engine.resume_checks import (
    check_same_classes,
    check_same_teachers,
    check_same_training,
    describe_teachers,
    describe_training,
    load_whole,
    teacher_name,
)
from mtkdrl_mm.models.teachers.build_teacher import _default_name
from mtkdrl_mm.teacher_outputs import TeacherRecord
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.hook_configs import hook_configs, kind_of

CFG = dict(
    model=dict(
        type='mtkdrl_mm.MultiTeacherDistiller',
        student=dict(cfg_path='a/student.py'),
        teachers=[
            dict(name='big', cfg_path='a/big.py', checkpoint='big.pth'),
            dict(cfg_path='a/wide.py', checkpoint='wide.pth'),
        ],
        weighting=dict(type='MTKDRL', agent=dict(type='JointAgent', hidden_size=64)),
        num_classes=10,
        logit_loss_weight=1.0,
    ),
    default_hooks=dict(
        agent=dict(type='AgentHook', algorithm=dict(type='PPO', clip=0.2), update_interval=5),
        logger=dict(type='LoggerHook'),
    ),
)


def changed(**changes):
    cfg = Config(copy.deepcopy(CFG))
    cfg.merge_from_dict(changes)
    return cfg


def check(cfg, before=None):
    contents = dict(meta=dict(training=describe_training(before or CFG)))
    check_same_training(cfg, 'epoch_1.pth', contents)


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'model.logit_loss_weight': 2.0},
        {'default_hooks.agent.update_interval': 9},
        {'default_hooks.agent.algorithm.clip': 0.1},
        # The defaults, which an earlier version may not have had.
        {'default_hooks.agent.reward': 'ClosenessReward'},
        {'default_hooks.agent.experience': 'training'},
        {'default_hooks.agent.discount_memorised': False},
        {'default_hooks.logger.interval': 1},
        {'model.teachers.0.checkpoint': 'moved/big.pth', 'model.student.cfg_path': 'b/student.py'},
        {'optim_wrapper': dict(optimizer=dict(type='SGD', lr=0.1))},
        {'model.teacher_inference': 'eager'},
    ],
)
def test_what_may_change(changes):
    check(changed(**changes))


@pytest.mark.parametrize(
    ('changes', 'difference'),
    [
        ({'model.weighting.type': 'AVER'}, '`model.weighting.type` was "MTKDRL" and is "AVER"'),
        (
            {'model.weighting.agent.type': 'AttentionAgent'},
            '`model.weighting.agent.type` was "JointAgent" and is "AttentionAgent"',
        ),
        (
            {'default_hooks.agent.algorithm.type': 'DPG'},
            '`default_hooks.agent.algorithm.type` was "PPO" and is "DPG"',
        ),
        (
            {'default_hooks.agent.reward': 'StudentLossReward'},
            '`default_hooks.agent.reward` was "ClosenessReward" and is "StudentLossReward"',
        ),
        (
            {'default_hooks.agent.discount_memorised': True},
            '`default_hooks.agent.discount_memorised` was "False" and is "True"',
        ),
        (
            {'model.teachers.0.name': 'small'},
            '`model.teachers` was "big, wide" and is "small, wide"',
        ),
        ({'model.num_classes': 12}, '`model.num_classes` was "10" and is "12"'),
    ],
)
def test_what_makes_another_training(changes, difference):
    with pytest.raises(InputError) as caught:
        check(changed(**changes))
    message = str(caught.value)
    assert message.startswith(f'"epoch_1.pth" is of another training: {difference}')
    assert 'another --work-dir' in message


def test_another_kind_of_optimiser_is_another_training():
    sgd = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    before = changed(optim_wrapper=sgd)
    amp = dict(type='AmpOptimWrapper', optimizer=dict(type='SGD', lr=0.2, momentum=0.9))
    check(changed(optim_wrapper=amp), before)
    adam = dict(optimizer=dict(type='AdamW', lr=0.1))
    with pytest.raises(InputError) as caught:
        check(changed(optim_wrapper=adam), before)
    assert str(caught.value).startswith(
        '"epoch_1.pth" is of another training: `optim_wrapper.optimizer.type` was "SGD" and is '
        '"AdamW". '
    )
    several = changed(optim_wrapper=dict(constructor='C', first=sgd, second=sgd))
    check(several, several)
    with pytest.raises(InputError, match=r'`optim_wrapper\.second\.optimizer\.type` was "SGD" and'):
        check(changed(optim_wrapper=dict(constructor='C', first=sgd, second=adam)), several)


def test_hooks_of_the_method_count_wherever_they_stand():
    hook = dict(CFG['default_hooks']['agent'])
    for elsewhere in (
        dict(default_hooks={}, custom_hooks=[dict(type='EMAHook'), hook]),
        dict(default_hooks=dict(mine=hook)),
    ):
        cfg = Config(copy.deepcopy({**CFG, **elsewhere}))
        assert describe_training(cfg) == describe_training(CFG)
        check(cfg)
        cfg.merge_from_dict({'model.num_classes': 10})
        (own,) = [each for each in hook_configs(cfg) if kind_of(each) == 'AgentHook']
        own['reward'] = 'StudentLossReward'
        with pytest.raises(InputError, match=r'`default_hooks\.agent\.reward` was'):
            check(cfg)


def test_the_order_of_teachers_counts():
    cfg = changed()
    cfg.model.teachers = cfg.model.teachers[::-1]
    with pytest.raises(InputError, match='was "big, wide" and is "wide, big"'):
        check(cfg)


def test_another_kind_of_model_is_named_alone():
    plain = Config(dict(model=dict(type='ImageClassifier', head=dict(num_classes=10))))
    with pytest.raises(InputError) as caught:
        check(plain)
    assert str(caught.value).startswith(
        '"epoch_1.pth" is of another training: `model.type` was '
        '"mtkdrl_mm.MultiTeacherDistiller" and is "ImageClassifier". '
    )


def test_checkpoints_of_other_programs_are_not_compared():
    check_same_training(CFG, 'epoch_1.pth', dict(meta=dict(epoch=1)))


@pytest.mark.parametrize(
    ('before', 'now', 'message'),
    [
        (('cat', 'dog'), ('cat', 'dog', 'emu'), 'with 2 classes, and the training data has 3'),
        (('cat', 'dog'), ('dog', 'cat'), 'number 0 was "cat" and is "dog"'),
        (('cat', 'dog'), ('cat', 'emu'), 'number 1 was "dog" and is "emu"'),
    ],
)
def test_other_classes(before, now, message):
    with pytest.raises(InputError, match=message):
        check_same_classes(dict(classes=before), dict(classes=now), 'a.pth')


@pytest.mark.parametrize('meta', [None, {}, dict(classes=['cat', 'dog'])])
def test_the_same_or_unknown_classes(meta):
    check_same_classes(meta, dict(classes=('cat', 'dog')), 'a.pth')
    check_same_classes(dict(classes=('cat', 'dog')), meta, 'a.pth')


TEACHER = TeacherRecord(
    name='big',
    weights_sha256='1' * 64,
    config=dict(model=dict(type='ResNet', depth=50)),
    class_map=dict(indices=[3, 5], text_embeddings='a.pt', text_sha256='7' * 64),
    preprocessing=dict(mean=[1.0], std=[2.0], to_rgb=True),
    input_size=(224, 224),
    checkpoint='big.pth',
)
SAVED = describe_teachers([replace(TEACHER, name='other'), TEACHER])


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'checkpoint': 'moved.pth'},
        {'weights_sha256': ''},
        {'inference': dict(dtype='bfloat16')},
        {'class_map': dict(indices=[3, 5], text_embeddings='b.pt', text_sha256='7' * 64)},
        {'class_map': dict(indices=[3, 5], text_embeddings='a.pt', text_sha256='')},
        {'name': 'unknown', 'weights_sha256': '2' * 64},
    ],
)
def test_the_same_teachers(changes):
    check_same_teachers(SAVED, [replace(TEACHER, **changes)], 'epoch_1.pth')


@pytest.mark.parametrize(
    'changes, difference',
    [
        ({'weights_sha256': '2' * 64}, r'version of the weights \(sha256\): 1{12} then, 2{12} now'),
        ({'class_map': None}, 'class map: .* then, None now'),
        (
            {'class_map': {**TEACHER.class_map, 'indices': [3, 6]}},
            r'class map \(`indices`\): \[3, 5\] then, \[3, 6\] now',
        ),
        (
            {'class_map': {**TEACHER.class_map, 'text_sha256': '8' * 64}},
            'class map .`text_sha256`.: 7+... then, 8+... now',
        ),
        (
            {'preprocessing': dict(mean=[1.5], std=[2.0], to_rgb=True)},
            r'preprocessing \(`mean`\): \[1.0\] then, \[1.5\] now',
        ),
        ({'input_size': None}, r'input size: \[224, 224\] then, None now'),
        (
            {'config': dict(model=dict(type='ResNet', depth=101))},
            r'network config \(`model.depth`\): 50 then, 101 now',
        ),
    ],
)
def test_other_teachers_of_the_same_names(changes, difference):
    sentence = f'^"epoch_1.pth" was trained by teacher "big" with another {difference}. Resume'
    with pytest.raises(InputError, match=sentence):
        check_same_teachers(SAVED, [replace(TEACHER, **changes)], 'epoch_1.pth')


@pytest.mark.parametrize('before', [None, {}, [dict(name='big', size=3)], ['big']])
def test_teachers_in_checkpoints_of_other_versions_are_not_compared(before):
    check_same_teachers(before, [TEACHER], 'epoch_1.pth')


def test_a_state_is_loaded_whole():
    model = nn.Linear(2, 3)
    state = {'module.weight': torch.ones(3, 2), 'module.bias': torch.zeros(3)}
    assert load_whole(model, state, 'a.pth') == 'Linear: resumed 2/2 tensors of a.pth'
    assert model.weight.sum() == 6


@pytest.mark.parametrize(
    ('state', 'message'),
    [
        (dict(weight=torch.ones(3, 2)), 'not in the checkpoint: bias. '),
        (
            dict(weight=torch.ones(3, 2), bias=torch.ones(3), extra=torch.ones(1)),
            'only in the checkpoint: extra. ',
        ),
        (
            dict(weight=torch.ones(4, 2), bias=torch.ones(3)),
            r'of another shape: weight was \(4, 2\) and is \(3, 2\)\. ',
        ),
    ],
)
def test_or_not_at_all(state, message):
    model = nn.Linear(2, 3)
    before = model.weight.clone()
    with pytest.raises(InputError, match=f'"a.pth" is of another training: {message}'):
        load_whole(model, state, 'a.pth')
    assert torch.equal(model.weight, before)


def test_name_of_a_teacher_is_that_of_its_pool():
    """Stores, tables and resuming call a teacher as the pool does."""
    names = {
        'r50': dict(name='r50', cfg_path='a/b.py'),
        'b': dict(cfg_path='a/b.py'),
        'resnet50.a1_in1k': dict(model_name='resnet50.a1_in1k'),
        'repo': dict(model_name='hf://org/repo@v1'),
    }
    for name, teacher in names.items():
        assert teacher_name(teacher) == name
    for name in ('resnet50.a1_in1k', 'repo'):
        assert _default_name(names[name], dict(model_name=names[name]['model_name'])) == name
