# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Hyperparameters of a resumed training's optimiser: those of its config."""

from collections.abc import Iterator
from functools import partial
from numbers import Number
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from mtkdrl_mm.utils.errors import summarise

from .optim_wrappers import optim_wrappers
from .scale_learning_rate import change_scheduled

_Values = list[dict[str, Any]]


def hyperparameters(optim_wrapper: OptimWrapper) -> _Values:
    """The settings of an optimiser's parameter groups, as its config gives them.

    Args:
        optim_wrapper (OptimWrapper): The runner's, before schedules or batch size
            have changed anything.

    Returns:
        list[dict[str, Any]]: For every group learning rate, weight decay and other
        numbers.
    """
    return [
        {key: value for key, value in group.items() if key != 'params' and _is_plain(value)}
        for _, _, group in _groups(optim_wrapper)
    ]


def follow_hyperparameters(runner: Runner, now: _Values, then: _Values | None) -> tuple[str, bool]:
    """Let a resumed training use the hyperparameters of its config, which may have changed.

    An optimiser takes all of them from the checkpoint, so that a lower learning rate
    in the config would be ignored. What is scheduled (the learning rate, mostly) is
    scaled, with the schedules that set it; all else gets its new value. If nothing
    has changed in the config, nothing is changed here.

    Args:
        runner (Runner): The runner, which has loaded the checkpoint. Optimiser and
            schedulers are changed.
        now (list[dict]): :func:`hyperparameters` of the config.
        then (list[dict], optional): Those that the checkpoint was trained with; None
            if it does not tell.

    Returns:
        tuple[str, bool]: What has changed, for the log, '' if nothing has; and
        whether something that is scheduled has.
    """
    groups = list(_groups(runner.optim_wrapper))
    if then is None or len(then) != len(now) or len(groups) != len(now):
        return '', False
    changes: dict[str, None] = {}
    scheduled = False
    for (wrapper, index, group), new, old in zip(groups, now, then):
        for key in sorted(new.keys() & old.keys()):
            if _listed(new[key]) == _listed(old[key]):
                continue
            changes[f'{key} was {old[key]} and is {new[key]}'] = None
            if f'initial_{key}' in group:
                scheduled = True
            # What is not scheduled is as it was, but for the learning rate: a change of the batch
            # size may have scaled it.
            if f'initial_{key}' in group or key == 'lr':
                scaled = partial(_scaled, new=new[key], old=old[key])
                change_scheduled(wrapper, index, key, runner.param_schedulers, scaled)
            else:
                group[key] = new[key]
    if not changes:
        return '', False
    return (
        f'The optimiser differs from that of the checkpoint ({summarise(list(changes), 3)}): the '
        'training follows its config from here on.'
    ), scheduled


def _groups(optim_wrapper: OptimWrapper) -> Iterator[tuple[OptimWrapper, int, dict[str, Any]]]:
    for wrapper in optim_wrappers(optim_wrapper):
        for index, group in enumerate(wrapper.param_groups):
            yield wrapper, index, group


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(isinstance(part, Number) for part in value)
    return value is None or isinstance(value, Number)  # a bool is one, too


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, list)) else value


def _scaled(value: float, new: float, old: float) -> float:
    return value * (new / old) if old else new
