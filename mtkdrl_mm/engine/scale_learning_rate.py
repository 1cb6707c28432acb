# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Scaling of learning rates in the middle of a training."""

from collections.abc import Sequence
from typing import Any

from mmengine.optim import OptimWrapper


def scale_learning_rate(
    optim_wrapper: OptimWrapper, schedulers: Sequence[Any], factor: float
) -> None:
    """Scale the learning rates of an optimiser, and the schedules that set them.

    Args:
        optim_wrapper (OptimWrapper): The optimiser; changed in place.
        schedulers (Sequence[_ParamScheduler]): mmengine's schedulers, of which
            those of the learning rate are changed in place.
        factor (float): The factor.
    """
    for group in optim_wrapper.param_groups:
        for key in ('lr', 'initial_lr'):
            if key in group:
                group[key] *= factor
    for scheduler in schedulers:
        if scheduler.param_name == 'lr':
            scheduler.base_values = [value * factor for value in scheduler.base_values]
            if hasattr(scheduler, '_last_value'):
                scheduler._last_value = [value * factor for value in scheduler._last_value]
