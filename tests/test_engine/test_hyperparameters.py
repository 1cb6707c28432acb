# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Learning rate and weight decay of resumed trainings whose config has changed."""

import numpy as np
import pytest
from mmengine.hooks import Hook

from mtkdrl_mm.utils import InputError

from .test_runner import _quick, build  # noqa: F401

COSINE = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=2),
    dict(type='CosineAnnealingLR', begin=0, T_max=4, eta_min=1e-3, end=4),
]


@pytest.fixture
def train(build, tmp_path, monkeypatch):  # noqa: F811
    """Function that trains; returns learning rate and weight decay of every iteration, and log."""
    monkeypatch.chdir(tmp_path)

    def run(epochs, lr, weight_decay=0.0, schedules=None, resume=False, **options):
        values, lines = [], []

        class Values(Hook):
            def before_train_iter(self, runner, batch_idx, data_batch=None):
                group = runner.optim_wrapper.param_groups[0]
                values.append((group['lr'], group['weight_decay']))

        optimizer = dict(type='SGD', lr=lr, weight_decay=weight_decay, _delete_=True)
        runner = build(
            resume=resume,
            work_dir=options.pop('work_dir', 'run'),
            param_scheduler=schedules,
            **{'train_cfg.max_epochs': epochs, 'optim_wrapper.optimizer': optimizer},
            **{key.replace('__', '.'): value for key, value in options.items()},
        )
        runner.register_hook(Values())
        info = runner.logger.info
        runner.logger.info = lambda text, *a, **k: lines.append(text) or info(text, *a, **k)
        runner.train()
        return values, [line for line in lines if 'differ' in line]

    return run


@pytest.mark.parametrize('schedules', [None, COSINE])
def test_the_config_is_followed_as_from_the_beginning(train, schedules):
    expected, _ = train(4, 0.002, 0.1, schedules, work_dir='whole')
    train(2, 0.01, 0.0, schedules)
    values, lines = train(4, 0.002, 0.1, schedules, resume=True)
    assert len(values) == 6
    np.testing.assert_allclose(values, expected[6:])
    assert lines == [
        'The optimiser differs from that of the checkpoint (lr was 0.01 and is 0.002, '
        'weight_decay was 0.0 and is 0.1): the training follows its config from here on.'
    ]
    # What was followed once is what the next checkpoint holds.
    values, lines = train(5, 0.002, 0.1, schedules, resume=True)
    assert lines == [] and values[0][1] == 0.1


@pytest.mark.parametrize('kind', ['adam', 'groups'])
def test_another_optimiser_is_refused_before_the_first_step(train, kind):
    train(1, 0.01)
    changes = dict(
        adam={'optim_wrapper__optimizer__type': 'AdamW'},
        groups={'optim_wrapper__paramwise_cfg': dict(norm_decay_mult=0.0)},
    )[kind]
    words = dict(
        adam=r'another training: `optim_wrapper\.optimizer\.type` was "SGD" and is "AdamW"\.',
        groups=r'its optimiser has 1 group of \d+ parameters, and that of the config \d+ groups of '
        r'1 parameter\. Was `optim_wrapper\.paramwise_cfg` changed',
    )[kind]
    with pytest.raises(InputError, match=words):
        train(2, 0.01, resume=True, **changes)


def test_a_learning_rate_that_was_lowered_by_results_stays_lowered(train):
    plateau = dict(type='ReduceOnPlateauLR', monitor='mean', rule='greater', threshold=1e9)
    plateau.update(patience=0, factor=0.5, end=4)
    every = dict(train_cfg__val_interval=1)
    lowered, _ = train(2, 0.01, 0.0, [plateau], **every)
    assert lowered[-1][0] == 0.01
    values, lines = train(3, 0.002, 0.0, [plateau], resume=True, **every)
    # By the second validation.
    assert [value for value, _ in values] == pytest.approx([0.002 * 0.5] * 3)
    assert len(lines) == 1


def test_a_changed_batch_size_is_no_changed_learning_rate(train):
    """--auto-scale-lr has scaled it; the config is the same."""
    scaled = dict(
        train_dataloader__batch_size=10, auto_scale_lr=dict(enable=True, base_batch_size=4)
    )
    train(1, 0.01)
    values, lines = train(2, 0.01, resume=True, **scaled)
    values, lines = train(3, 0.01, resume=True, **scaled)
    assert lines == [] and values == [(pytest.approx(0.025), 0)]
    values, lines = train(4, 0.002, resume=True, **scaled)
    assert len(lines) == 1 and values == [(pytest.approx(0.005), 0)]
