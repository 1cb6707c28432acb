# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Averages of logged numbers."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import LoggerHook

from mtkdrl_mm.engine.scalar_meter import ScalarMeter, log_is_due


def test_means_since_the_last_flush():
    meter = ScalarMeter(['a', 'b'])
    meter.add(torch.tensor([1.0, 10.0]))
    meter.add(torch.tensor([2.0, 20.0]))
    meter.add(torch.tensor([6.0, 0.0]))
    assert meter.flush() == dict(a=3.0, b=10.0)
    assert meter.flush() == {}
    meter.add(torch.tensor([5.0, 7.0]))
    assert meter.flush() == dict(a=5.0, b=7.0)


def test_what_was_added_is_left_alone():
    meter, first = ScalarMeter(['a']), torch.tensor([1.0], requires_grad=True)
    meter.add(first)
    meter.add(torch.tensor([2.0]))
    assert first.item() == 1.0
    with torch.no_grad():
        first.add_(100)
    assert meter.flush() == dict(a=1.5)


def test_flush_does_not_reach_back_into_the_values():
    meter = ScalarMeter(['a'])
    values = torch.tensor([3.0])
    meter.add(values)
    meter.add(torch.tensor([0.0]))  # so that the sum is that of the first, but not the mean
    assert meter.flush() == dict(a=1.5)
    assert values.item() == 3.0


@pytest.mark.parametrize(
    ('done', 'interval', 'due'), [(0, 3, False), (2, 3, True), (5, 3, True), (9, 4, True)]
)
def test_log_is_due_when_the_logger_prints(done, interval, due):
    runner = SimpleNamespace(
        hooks=[object(), LoggerHook(interval=interval)],
        iter=100,  # not a multiple of any interval, plus one
        train_dataloader=range(10),
    )
    assert log_is_due(runner, done) is due
    assert log_is_due(SimpleNamespace(hooks=[]), done) is True
