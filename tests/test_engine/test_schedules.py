# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Schedules of resumed trainings, against those of trainings in one piece."""

import pytest
from mmengine.hooks import Hook

from mtkdrl_mm.utils import InputError

from .test_runner import _quick, build  # noqa: F401


@pytest.fixture
def train(build):  # noqa: F811
    """Function that trains; returns the scheduled values of every iteration, and the log."""

    def run(schedules, length, kind='Epoch', work_dir='run', resume=False, **options):
        values, lines = [], []

        class Values(Hook):
            def before_train_iter(self, runner, batch_idx, data_batch=None):
                group = runner.optim_wrapper.param_groups[0]
                values.append((group['lr'], group.get('betas', group.get('momentum'))))

        limit = 'train_cfg.max_epochs' if kind == 'Epoch' else 'train_cfg.max_iters'
        runner = build(
            kind,
            resume=resume,
            work_dir=work_dir,
            **{limit: length, 'default_hooks.checkpoint.by_epoch': kind == 'Epoch'},
            **options,
            param_scheduler=schedules,
        )
        runner.register_hook(Values())
        info = runner.logger.info
        runner.logger.info = lambda text, *a, **k: lines.append(text) or info(text, *a, **k)
        runner.train()
        return values, [line for line in lines if 'schedules differ' in line]

    return run


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def cosine(**kwargs):
    return dict(type='CosineAnnealingLR', **kwargs)


ADAM = {'optim_wrapper.optimizer': dict(type='Adam', lr=0.01, _delete_=True)}


@pytest.mark.parametrize(
    ('kind', 'before', 'after', 'options'),
    [
        ('Epoch', [cosine()], [cosine()], {}),
        ('Epoch', [cosine(T_max=2)], [cosine(T_max=4)], {}),
        ('Epoch', [cosine(convert_to_iter_based=True)], [cosine(convert_to_iter_based=True)], {}),
        ('Epoch', [dict(type='PolyLR', by_epoch=False, eta_min=1e-4)], None, {}),
        (
            'Epoch',
            [dict(type='MultiStepLR', milestones=[1, 2])],
            [dict(type='MultiStepLR', milestones=[1, 3])],
            {},
        ),
        ('Epoch', [cosine()], [dict(type='StepLR', step_size=1, gamma=0.5)], {}),
        (
            'Epoch',
            [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=2), cosine(begin=1)],
            None,
            {},
        ),
        ('Epoch', [cosine()], [dict(type='LinearLR', by_epoch=False, end=4), cosine()], {}),
        ('Epoch', [cosine(), dict(type='CosineAnnealingMomentum', eta_min=0.1)], None, {}),
        ('Epoch', [cosine(), dict(type='CosineAnnealingMomentum', eta_min=0.1)], None, ADAM),
        ('Iter', [dict(type='PolyLR', by_epoch=False, power=0.9)], None, {}),
        ('Iter', [cosine(by_epoch=False, T_max=6)], [cosine(by_epoch=False, T_max=12)], {}),
    ],
)
def test_a_longer_training_follows_the_longer_schedule(train, kind, before, after, options):
    after = after or before
    part, whole = (2, 4) if kind == 'Epoch' else (6, 12)
    expected, _ = train(after, whole, kind, work_dir='whole', **options)
    train(before, part, kind, **options)
    values, lines = train(after, whole, kind, resume=True, **options)
    assert values == expected[6:] and len(values) == 6
    assert len(set(expected)) > 2
    assert len(lines) == 1 and 'follows those of its config' in lines[0]


def test_what_has_changed_is_named(train):
    train([cosine()], 1)
    _, lines = train([cosine(), dict(type='ConstantLR', by_epoch=False, end=4)], 3, resume=True)
    assert 'CosineAnnealingLR: T_max was 1 and is 3, end was 1 and is 3, ConstantLR is' in lines[0]


@pytest.mark.parametrize(
    'schedules',
    [
        [cosine(convert_to_iter_based=True)],
        [dict(type='LinearLR', by_epoch=False, end=5), cosine(begin=1)],
        [dict(type='CosineAnnealingMomentum', eta_min=0.1)],
    ],
)
@pytest.mark.parametrize(('batch', 'steps'), [(4, 3), (10, 1)])
def test_unchanged_schedules_go_on(train, build, schedules, batch, steps):  # noqa: F811
    """Also with another number of iterations per epoch."""
    whole, _ = train(schedules, 4, work_dir='whole')

    class Interrupt(Hook):
        def before_train_epoch(self, runner):
            if runner.epoch == 2:
                raise InterruptedError

    first = build(work_dir='run', param_scheduler=schedules, **{'train_cfg.max_epochs': 4})
    first.register_hook(Interrupt())
    with pytest.raises(InterruptedError):
        first.train()
    size = {'train_dataloader.batch_size': batch}
    values, lines = train(schedules, 4, resume=True, **size)
    assert lines == [] and values == whole[6 :: 3 // steps]


def test_schedules_of_an_iteration_loop_keep_their_epochs(train):
    """By `convert_to_iter_based`: 3 iterations each before, and 1 now."""
    schedules = [cosine(T_max=3, end=3, convert_to_iter_based=True)]
    whole, _ = train(schedules, 9, 'Iter', work_dir='whole')
    for resume, batch, stop in ((False, 4, 4), (True, 10, 9)):
        size = {'train_dataloader.batch_size': batch}
        values, lines = train(schedules, stop, 'Iter', resume=resume, **size)
    assert lines == [] and values == whole[4:]


def test_results_of_validations_are_kept_in_a_longer_training(train):
    plateau = dict(type='ReduceOnPlateauLR', monitor='mean', rule='greater', threshold=1e9)
    plateau.update(patience=0, factor=0.5)
    every = {'train_cfg.val_interval': 1}
    expected, _ = train([plateau], 4, work_dir='whole', **every)
    warmup = dict(type='ConstantLR', by_epoch=False, end=2, factor=1.0)
    for schedules in ([plateau], [warmup, plateau]):
        train(schedules, 2, work_dir=str(len(schedules)), **every)
        values, lines = train(schedules, 4, work_dir=str(len(schedules)), resume=True, **every)
        assert 'ReduceOnPlateauLR: end was 2 and is 4' in lines[0]
        assert values == expected[6:] and len(set(values)) > 1
    with pytest.raises(InputError, match=r'ConstantLR: factor was 1.0 and is 0.5.*`load_from`'):
        train([dict(warmup, factor=0.5), plateau], 6, work_dir='2', resume=True, **every)
