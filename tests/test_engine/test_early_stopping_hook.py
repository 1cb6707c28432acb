# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Early stopping, and other counts of validations, in trainings that are cut."""

import signal

import pytest
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import METRICS

from mtkdrl_mm.engine.hooks import ResumableEarlyStoppingHook

from .test_runner import _quick, build, lr  # noqa: F401

# Best after the second validation; with a patience of 3 the training ends after the fifth.
RESULTS = [1.0, 3.0, 2.0, 2.5, 2.0, 9.0, 9.0, 9.0]
SHOWN = []


@METRICS.register_module(name='EarlyStoppingTestResults')
class Results(BaseMetric):
    """The result of a validation is that of the epoch."""

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(score=RESULTS[SHOWN[-1] - 1])


class Watch(Hook):
    """Notes validations, and sends a signal in one of them."""

    priority = 'HIGHEST'

    def __init__(self, epoch=0, method=''):
        self.epoch, self.method = epoch, method

    def signal(self, runner, method):
        if (runner.epoch, method) == (self.epoch, self.method):
            signal.raise_signal(signal.SIGTERM)

    def before_val(self, runner):
        SHOWN.append(runner.epoch)
        self.signal(runner, 'before_val')

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == len(runner.val_loop.dataloader) - 1:
            self.signal(runner, 'after_val_iter')

    def after_val_epoch(self, runner, metrics=None):
        self.signal(runner, 'after_val_epoch')


@pytest.fixture
def train(build):  # noqa: F811
    """Function that trains with early stopping, and returns what a cut must not change."""
    SHOWN.clear()

    def run(work_dir, watch=None, patience=3, **options):
        runner = build(
            work_dir=str(work_dir),
            **{
                'train_cfg.max_epochs': len(RESULTS),
                'train_cfg.val_interval': 1,
                'val_evaluator.type': 'EarlyStoppingTestResults',
                'param_scheduler': dict(
                    _delete_=True,
                    type='ReduceOnPlateauLR',
                    monitor='score',
                    rule='greater',
                    factor=0.5,
                    patience=0,
                ),
                'custom_hooks': [
                    dict(
                        type='EarlyStoppingHook',
                        monitor='score',
                        rule='greater',
                        min_delta=0.1,
                        patience=patience,
                    )
                ],
                **options,
            },
        )
        runner.register_hook(watch or Watch())
        runner.train()
        (hook,) = [h for h in runner.hooks if isinstance(h, ResumableEarlyStoppingHook)]
        return runner.epoch, lr(runner), hook.best_score, hook.wait_count

    return run


def test_a_cut_in_any_validation_changes_nothing(train, tmp_path):
    whole = train(tmp_path / 'whole')
    assert whole == (5, 0.01 * 0.5**3, 3.0, 3) and SHOWN == [1, 2, 3, 4, 5]
    for epoch in range(1, 6):
        for method in ('before_val', 'after_val_iter', 'after_val_epoch'):
            folder = tmp_path / f'{epoch}_{method}'
            with pytest.raises(SystemExit):
                train(folder, Watch(epoch, method))
            SHOWN.clear()
            assert train(folder, resume=True) == whole, folder.name
            # A validation that has been counted is not repeated, any other one is.
            begin = epoch + (method == 'after_val_epoch')
            assert SHOWN == list(range(begin, 6)), folder.name


def test_after_a_kill_the_last_checkpoint_goes_on(train, tmp_path):
    whole = train(tmp_path / 'whole')

    class Kill(Watch):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 10:  # in the fourth epoch
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / 'cut', Kill())
    assert train(tmp_path / 'cut', resume=True) == whole


def test_a_training_that_was_stopped_stays_so(train, tmp_path):
    whole = train(tmp_path / 'stopped')
    patient = train(tmp_path / 'patient', patience=4)
    assert whole[0] == 5 and patient[0] == 8 and patient[2:] == (9.0, 2)
    SHOWN.clear()
    assert train(tmp_path / 'stopped', resume=True) == whole
    assert SHOWN == [5]  # its checkpoint is from before that validation
    assert train(tmp_path / 'stopped', resume=True, patience=4) == patient


def test_a_threshold_that_was_reached_stays_so(train, tmp_path):
    hook = dict(type='EarlyStoppingHook', monitor='score', rule='greater', stopping_threshold=2.9)
    with pytest.raises(SystemExit):
        train(tmp_path, Watch(2, 'after_val_epoch'), custom_hooks=[hook])
    SHOWN.clear()
    assert train(tmp_path, resume=True, custom_hooks=[hook])[0] == 2
    assert SHOWN == []


def test_every_metric_has_a_count_of_its_own(train, tmp_path):
    hooks = [
        ResumableEarlyStoppingHook(name, rule, min_delta=0.1)
        for name, rule in (('score', 'greater'), ('error', 'less'))
    ]
    checkpoint = {}
    for count, hook in enumerate(hooks):
        hook.best_score, hook.wait_count = 0.5 + count, count
        hook.before_save_checkpoint(None, checkpoint)
    for count, hook in enumerate(hooks):
        other = ResumableEarlyStoppingHook(hook.monitor, hook.rule, min_delta=0.1)
        other.after_load_checkpoint(type('Runner', (), dict(_resume=True)), checkpoint)
        assert (other.best_score, other.wait_count) == (0.5 + count, count)
        fresh = ResumableEarlyStoppingHook(hook.monitor, hook.rule, min_delta=0.1)
        fresh.after_load_checkpoint(type('Runner', (), dict(_resume=False)), checkpoint)
        assert fresh.wait_count == 0
