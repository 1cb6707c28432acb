# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What is read from the logs of a training."""

import json

import pytest
from test_report.work_dirs import step, validation, write_session

from mtkdrl_mm.comparison.logs import read_logs
from mtkdrl_mm.utils import InputError

KEY = 'teacher_weight/logit/a'


def read(folder, metric='accuracy/top1'):
    return read_logs(str(folder), metric)


def test_what_logs_hold(tmp_path):
    first = step(1, 2, **{KEY: 0.25, 'teacher_weight/feature/a': 0.5, 'memory': 70})
    second = step(1, 4, **{KEY: 0.75, 'time': 0.1, 'memory': 60})
    logs = [first, second, validation(1, 40.0), step(2, 6), validation(2, 50.0)]
    write_session(tmp_path, '20260101_000000', logs)
    log = read(tmp_path)
    assert (log.metric, log.metric_name) == (50.0, 'accuracy/top1')
    # Four iterations in each of two epochs.
    assert log.seconds_per_epoch == 0.5 * 4
    assert log.curves == {
        KEY: [(2, 0.25), (4, 0.75)],
        'teacher_weight/feature/a': [(2, 0.5)],
    }
    assert log.peak_mib == 70 and log.class_weights is None
    table = dict(logit=[[0.5, 0.5]], teachers=['a', 'b'], feature=[])
    (tmp_path / 'class_weights.json').write_text(json.dumps(table))
    assert read(tmp_path).class_weights == table


def test_without_memory_and_times(tmp_path):
    lines = [{key: value for key, value in step(1, 2).items() if key != 'time'}, validation(1, 50)]
    write_session(tmp_path, '20260101_000000', lines)
    log = read(tmp_path)
    assert (log.metric, log.peak_mib, log.seconds_per_epoch) == (50.0, 0, None)


@pytest.mark.parametrize(('length', 'interval', 'epochs'), [(70, 50, 1), (70, 50, 3), (99, 50, 2)])
@pytest.mark.parametrize('has_text', [True, False])
def test_seconds_of_a_whole_epoch(tmp_path, length, interval, epochs, has_text):
    """The last log line is not at the end of an epoch."""
    lines = [
        step(1 + epoch, epoch * length + i, time=1.0)
        for epoch in range(epochs)
        for i in range(interval, length, interval)
    ]
    folder = write_session(tmp_path, '20260101_000000', [*lines, validation(epochs, 50.0)])
    if has_text:
        text = f'... - INFO - Epoch(train)  [1][{interval}/{length}]  lr: 1.0e-01\n'
        (folder / '20260101_000000.log').write_text(f'Config:\n{text}')
    expected = length if has_text or epochs > 1 else None
    assert read(tmp_path).seconds_per_epoch == expected


@pytest.mark.parametrize('epoch', [None, 1])
def test_a_training_by_iterations_counts_no_epochs(tmp_path, epoch):
    """By default mmengine's log counts epochs, also where there are none."""
    folder = tmp_path / 'lr[0.1]'  # which is no pattern
    logs = [step(epoch, 2, **{KEY: 0.25}), step(epoch, 4, **{KEY: 0.75}), validation(4, 50.0)]
    config = None if epoch is None else 'train_cfg = dict(max_iters=4)\n'
    write_session(folder, '20260101_000000', logs, config)
    log = read(folder)
    assert (log.metric, log.seconds_per_epoch) == (50.0, None)
    assert log.curves[KEY] == [(2, 0.25), (4, 0.75)]


def test_a_resumed_training_repeats_steps(tmp_path):
    logs = [step(1, i, **{KEY: 0.1 * i}) for i in (2, 4, 6)]
    write_session(tmp_path, '20260101_000000', [*logs, validation(1, 40.0)])
    # Resumed after step 2, with other intervals between log lines: nothing of it remains.
    logs = [step(1, 3, **{KEY: 0.5}), step(1, 5, **{KEY: 0.25}), validation(1, 51.0)]
    write_session(tmp_path, '20260101_010000', logs)
    log = read(tmp_path)
    assert log.metric == 51.0 and log.curves[KEY] == [(2, 0.2), (3, 0.5), (5, 0.25)]


def test_a_training_that_starts_again_forgets_the_first(tmp_path):
    """It had saved nothing, and came further than the second one."""
    logs = [step(1, i, **{KEY: 0.9, 'teacher_weight/logit/old': 0.1}) for i in (10, 20, 30)]
    write_session(tmp_path, '20260101_000000', [*logs, validation(3, 90.0)])
    logs = [step(1, 10, **{KEY: 0.2, 'time': 0.25}), validation(1, 60.0)]
    write_session(tmp_path, '20260101_010000', logs)
    log = read(tmp_path)
    assert (log.metric, log.curves) == (60.0, {KEY: [(10, 0.2)]})
    # The log says nowhere how long an epoch is.
    assert log.seconds_per_epoch is None


def test_damaged_logs_are_named(tmp_path):
    def refused(metric='accuracy/top1'):
        with pytest.raises(InputError) as error:
            read(tmp_path, metric)
        return str(error.value)

    logs = write_session(tmp_path, '20260101_000000', [step(1, 2)]) / 'vis_data' / 'scalars.json'
    assert refused() == f'No "accuracy/top1" in the logs of {tmp_path}: nothing was validated.'
    logs.write_text(json.dumps(step(1, 2)) + '\n' + json.dumps(validation(1, 50.0)) + '\n')
    assert refused('mIoU') == (
        f'No "mIoU" in the logs of {tmp_path}: its validations have accuracy/top1. Name one of '
        'them with --metric.'
    )
    (tmp_path / 'class_weights.json').write_text('{"logit": [')
    assert 'class_weights.json" is damaged' in refused()
    logs.write_text(json.dumps(validation(1, 50.0)) + '\n')
    assert refused() == (
        f'No "loss" in the logs of {tmp_path}: set `default_hooks.logger.interval` to fewer '
        'iterations than the training has.'
    )
    logs.write_text('{\n' + json.dumps(step(1, 2)) + '\n')
    assert 'scalars.json" is damaged: line 1' in refused()
