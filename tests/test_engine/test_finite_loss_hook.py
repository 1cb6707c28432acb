# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Stops at a loss that is no number, and says whose it is."""

import pytest
import torch

from mtkdrl_mm.engine.hooks import FiniteLossHook
from mtkdrl_mm.utils import InputError


@pytest.fixture
def run(make_runner, make_distiller, make_batch):
    """Function that spoils a distiller, runs a step and lets the hook look."""

    def step(spoil=lambda distiller: None, last=None, **kwargs):
        distiller = make_distiller(**kwargs).train()
        spoil(distiller)
        runner = make_runner(distiller, iter=41, epoch=2)
        if last:
            runner.message_hub.update_info('last_ckpt', last)
        hook = FiniteLossHook()
        hook.before_train(runner)
        losses = distiller(*make_batch(4), mode='loss')
        runner.message_hub.update_scalar('train/loss', sum(losses.values()).item())
        hook.after_train_iter(runner, 0)

    return step


def fill(parameter, value=float('nan')):
    with torch.no_grad():
        parameter.fill_(value)


def message_of(run, *args, **kwargs):
    with pytest.raises(InputError) as error:
        run(*args, **kwargs)
    return str(error.value)


def test_finite_losses_pass(run):
    run()


def test_teacher_with_non_finite_logits_is_named_alone(run):
    message = message_of(run, lambda d: fill(d.teachers[1].network.head.fc.weight))
    assert 'The loss is nan in iteration 42 (epoch 3)' in message
    assert 'the logits of teacher "b" are not finite' in message
    assert '"a"' not in message and 'cross entropy' not in message
    assert 'No checkpoint had been saved yet' in message


@pytest.mark.parametrize('name', ['a', 'b'])
def test_feature_term_and_its_teacher(run, name):
    message = message_of(
        run,
        lambda d: fill(d.connectors[name].projection.conv.weight),
        last='work_dirs/x/epoch_2.pth',
    )
    assert f'the feature loss to teacher "{name}" is not finite' in message
    assert ('"b"' if name == 'a' else '"a"') not in message
    assert 'last good state is in work_dirs/x/epoch_2.pth' in message


def test_infinite_loss(run):
    message = message_of(run, lambda d: fill(d.connectors['a'].projection.bn.weight, 1e30))
    assert 'The loss is inf' in message and 'feature loss to teacher "a"' in message


def test_student(run):
    message = message_of(run, lambda d: fill(d.student.head.fc.weight))
    assert "the student's cross entropy is not finite" in message
    assert 'the logit loss to teacher "a" is not finite' in message
    assert 'feature loss' not in message


def test_sum_that_overflows(run):
    message = message_of(run, logit_loss_weight=1e39)
    assert 'every term is finite, their weighted sum overflows' in message
