# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Scaling of learning rates, and of whatever else is scheduled, in the middle of a training."""

from collections.abc import Callable, Iterator
from typing import Any

from mmengine.optim import OptimWrapper

from .optim_wrappers import optim_wrappers


def scale_learning_rate(optim_wrapper: OptimWrapper, schedulers: Any, factor: float) -> None:
    """Scale the learning rates of an optimiser, and the schedules that set them.

    Args:
        optim_wrapper (OptimWrapper): The optimiser; changed in place.
        schedulers (list | dict, optional): mmengine's schedulers, as the runner has
            them, of which those of the learning rate are changed in place.
        factor (float): The factor.
    """
    for wrapper in optim_wrappers(optim_wrapper):
        for index in range(len(wrapper.param_groups)):
            change_scheduled(wrapper, index, 'lr', schedulers, lambda value: value * factor)


def change_scheduled(
    wrapper: OptimWrapper,
    index: int,
    key: str,
    schedulers: Any,
    change: Callable[[float], float],
) -> None:
    """Change a hyperparameter of a parameter group, and the schedules that set it.

    Args:
        wrapper (OptimWrapper): A single optimiser; changed in place.
        index (int): Number of the group.
        key (str): The hyperparameter, such as ``lr``.
        schedulers (list | dict, optional): As for :func:`scale_learning_rate`.
        change (Callable): The new value for every value of the hyperparameter: the
            current and the initial one, and those that schedulers start from.
    """
    group = wrapper.param_groups[index]
    for name in (key, f'initial_{key}'):
        if name in group:
            group[name] = change(group[name])
    for scheduler in _flat(schedulers):
        of_wrapper = scheduler.optimizer is wrapper or scheduler.optimizer is wrapper.optimizer
        if scheduler.param_name == key and of_wrapper:
            for name in ('base_values', '_last_value'):
                values = getattr(scheduler, name, None)
                if values is not None:
                    values[index] = change(values[index])


def _flat(schedulers: Any) -> Iterator[Any]:
    if isinstance(schedulers, dict):  # of several optimisers
        schedulers = schedulers.values()
    for one in schedulers or ():
        yield from one if isinstance(one, (list, tuple)) else [one]
