# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""When a training is connected to its store, and when views are finished."""

from types import SimpleNamespace

import pytest
import torch
from mmpretrain.engine import SwitchRecipeHook
from mmpretrain.models.utils.batch_augments import RandomBatchAugment

from mtkdrl_mm.engine.hooks import TeacherOutputsHook
from mtkdrl_mm.engine.hooks import teacher_outputs_hook as module
from mtkdrl_mm.engine.loops import ResumableEpochLoop, ResumableIterLoop
from mtkdrl_mm.utils import InputError


class Loop:
    """Positions of a training; a pass through the data takes four iterations."""

    def __init__(self, dataloader=None):
        self.dataloader = dataloader

    def passes(self, epoch, iteration):
        assert epoch == iteration // 4 or isinstance(self, ResumableIterLoop)
        return iteration // 4


class EpochLoop(Loop, ResumableEpochLoop):
    pass


class IterLoop(Loop, ResumableIterLoop):
    pass


@pytest.fixture
def finished(monkeypatch, make_distiller, make_runner):
    """Function that trains eight iterations; returns the calls of `finish` by iteration."""

    def train(loop, filling=True):
        calls = []
        writing = SimpleNamespace(finish=lambda passes: calls.append((runner.iter, passes)))
        monkeypatch.setattr(
            module, 'connect_teacher_outputs', lambda *args: writing if filling else None
        )
        runner = make_runner(make_distiller(), train_loop=loop)
        hook = TeacherOutputsHook()
        hook.before_train(runner)
        for iteration in range(8):
            runner.iter = iteration  # it is increased after the hooks
            hook.after_train_iter(runner, iteration % 4)
            if isinstance(loop, ResumableEpochLoop) and iteration % 4 == 3:
                runner.iter = iteration + 1
                hook.after_train_epoch(runner)
                runner.epoch += 1
        if isinstance(loop, ResumableIterLoop):  # whose whole training is one epoch
            runner.iter = 8
            hook.after_train_epoch(runner)
        return calls

    return train


def test_a_view_is_finished_with_its_epoch(finished):
    assert finished(EpochLoop()) == [(4, 1), (8, 2)]


def test_a_view_is_finished_with_the_last_iteration_of_a_pass(finished):
    calls = finished(IterLoop())
    assert calls == [(i, (i + 1) // 4) for i in range(8)]


@pytest.mark.parametrize('loop', [EpochLoop(), IterLoop(), Loop()])
def test_without_writing_nothing_is_finished(finished, loop):
    assert finished(loop, filling=False) == []


def test_other_loops_are_left_alone(finished):
    assert finished(Loop()) == []


def test_a_training_is_connected_before_it_starts(make_training, make_runner, tmp_path, run_epoch):
    model, loader = make_training(dict(root=str(tmp_path / 'store'), views=1, write=True))
    runner = make_runner(model, train_loop=EpochLoop(loader))
    hook = TeacherOutputsHook()
    hook.before_train(runner)
    first, _ = run_epoch(model, loader)
    runner.iter = 4
    hook.after_train_epoch(runner)
    # A second training, from the store.
    model, loader = make_training(str(tmp_path / 'store'))
    runner = make_runner(model, train_loop=EpochLoop(loader))
    TeacherOutputsHook().before_train(runner)
    second, carried = run_epoch(model, loader)
    assert all(one.row is not None for one in carried.values())
    for path, tensors in first.items():
        assert all(torch.equal(a, b) for a, b in zip(tensors, second[path]))


def test_it_needs_a_distiller(make_runner):
    with pytest.raises(InputError, match='TeacherOutputsHook'):
        TeacherOutputsHook().before_train(make_runner(torch.nn.Linear(1, 1)))


@pytest.mark.parametrize(
    'recipe', [dict(batch_augments=None), dict(train_pipeline=[dict(type='PackInputs')])]
)
def test_images_that_are_to_change_have_no_stored_outputs(
    make_training, fill, store, make_runner, recipe
):
    fill()
    model, loader = make_training(store)
    switch = SwitchRecipeHook([dict(action_epoch=3, **recipe)])
    runner = make_runner(model, train_loop=EpochLoop(loader), hooks=[switch])
    with pytest.raises(InputError, match=rf'switches `{next(iter(recipe))}` in epoch 3, but'):
        TeacherOutputsHook().before_train(runner)


def test_images_are_not_blended_twice(make_training, fill, store, make_runner):
    """By a hook that sets mixup in the course of the training."""
    fill(mixup=True)
    model, loader = make_training(store, mixup=True)
    TeacherOutputsHook().before_train(make_runner(model, train_loop=EpochLoop(loader)))
    data = model.data_preprocessor(next(iter(loader)), True)
    model.train()(**data, mode='loss')
    model.data_preprocessor.batch_augments = RandomBatchAugment(dict(type='Mixup', alpha=1.0))
    with pytest.raises(InputError, match='which would blend them twice'):
        model(**data, mode='loss')
