# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Scaling of learning rates in the middle of a training."""

import pytest
import torch
from mmengine.optim import CosineAnnealingLR, LinearMomentum, OptimWrapper

from mtkdrl_mm.engine.scale_learning_rate import scale_learning_rate


def train(scale_at=None, factor=2.0):
    """Learning rates and momenta of six steps; the rates are scaled after a number of steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    wrapper = OptimWrapper(optimizer)
    schedulers = [
        CosineAnnealingLR(wrapper, T_max=6, by_epoch=False),
        LinearMomentum(wrapper, start_factor=0.5, end=6, by_epoch=False),
    ]
    values = []
    for step in range(6):
        if step == scale_at:
            scale_learning_rate(wrapper, schedulers, factor)
        group = wrapper.param_groups[0]
        values.append((group['lr'], group['momentum']))
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return values


def test_the_schedule_continues_with_scaled_rates():
    plain, scaled = train(), train(scale_at=3)
    for step, ((rate, momentum), (new_rate, new_momentum)) in enumerate(zip(plain, scaled)):
        assert new_rate == pytest.approx(rate * (2 if step >= 3 else 1))
        assert new_momentum == pytest.approx(momentum)
