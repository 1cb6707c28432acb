# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Schedules of a resumed training: those of its config, at the checkpoint's position."""

from collections.abc import Iterator
from typing import Any

from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.runner import Runner

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.errors import summarise

from .loops.base import ResumableLoop
from .optim_wrappers import optim_wrappers

# What changes in a scheduler as it takes steps; all else follows from its config.
_POSITION = ('last_step', '_global_step', '_last_value', 'base_values', 'verbose')
# The same of `ReduceOnPlateauLR`, whose steps depend on the results of validations.
_RESULTS = ('best', 'num_bad_epochs', 'cooldown_counter')


def follow_schedules(runner: Runner, config: Any, saved: Any, rescaled: bool = False) -> str:
    """Let a resumed training follow the schedules of its config, which may have changed.

    mmengine's schedulers take all settings from the checkpoint: those of a
    training that is resumed with more epochs would go on as if it had ended, and
    other milestones would be ignored. If a setting differs, the schedulers are
    therefore built anew, and take as many steps as the training has made. Values
    are then those of a training with these schedules from its beginning. If
    none differs, nothing is changed.

    Args:
        runner (Runner): The runner, which has loaded the checkpoint, and whose
            loop knows its position. Schedulers and optimiser are changed.
        config (list[dict] | dict): The value of ``param_scheduler``.
        saved (list[dict] | dict): The schedulers' states in the checkpoint; None
            if it has none.
        rescaled (bool): Whether the initial value of something that is scheduled has
            changed, see :func:`follow_hyperparameters`. Defaults to False.

    Returns:
        str: What has changed in the schedules, for the log; '' if nothing has.

    Raises:
        InputError: If a schedule has changed, and there is one whose steps depend
            on the results of validations.
    """
    loop = runner.train_loop
    if not isinstance(loop, ResumableLoop) or not _is_config(config):
        return ''
    loaded = runner.param_schedulers
    before = [(group, dict(group)) for group in _groups(runner.optim_wrapper)]
    _rewind(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(_complete(config, loop))
    pairs = _pairs(runner.param_schedulers, saved)
    changes = [change for now, then in pairs if (change := _describe_change(now, then))]
    driven = any(_is_driven(scheduler) for scheduler, _ in pairs)
    kept = driven or not (changes or rescaled)
    if kept:
        for group, values in before:
            group.clear()
            group.update(values)
    if not kept:
        _take_steps(runner, loop)
    elif changes:
        _keep_positions(pairs, changes)
    else:
        runner.param_schedulers = loaded
    if not changes:
        return ''
    return (
        f'The schedules differ from those of the checkpoint ({summarise(changes, 3)}): the '
        'training follows those of its config from here on.'
    )


def _is_config(config: Any) -> bool:
    """Whether schedulers are given by their configs, and can be built anew."""
    if isinstance(config, (list, tuple)):
        return len(config) > 0 and all(_is_config(item) for item in config)
    if isinstance(config, dict) and 'type' not in config:
        return len(config) > 0 and all(_is_config(item) for item in config.values())
    return isinstance(config, dict)


def _complete(config: Any, loop: ResumableLoop) -> Any:
    """Add the length of the training, and of an epoch, in the schedules' count."""
    if isinstance(config, (list, tuple)):
        return [_complete(item, loop) for item in config]
    if 'type' not in config:
        return {name: _complete(item, loop) for name, item in config.items()}
    config = dict(config)
    by_epoch = config.get('by_epoch', True)
    config.setdefault('end', loop.max_epochs if by_epoch else loop.schedule_end)
    if config.get('convert_to_iter_based'):
        config.setdefault('epoch_length', loop.schedule_steps_per_epoch)
    return config


def _groups(optim_wrapper: OptimWrapper) -> Iterator[dict[str, Any]]:
    for wrapper in optim_wrappers(optim_wrapper):
        yield from wrapper.param_groups


def _rewind(optim_wrapper: OptimWrapper) -> None:
    """Give everything that is scheduled the value that it had at the beginning."""
    for group in _groups(optim_wrapper):
        for key in [key for key in group if key.startswith('initial_')]:
            group[key.removeprefix('initial_')] = group[key]
        # Schedulers of the momentum read Adam's from there.
        if 'betas' in group and 'initial_momentum' in group:
            group['betas'] = (group['initial_momentum'], *group['betas'][1:])


def _pairs(now: Any, saved: Any) -> list[tuple[_ParamScheduler | None, dict[str, Any] | None]]:
    """Schedulers and their states in the checkpoint; None where there is none."""
    if isinstance(now, dict):
        saved = saved if isinstance(saved, dict) else {}
        return [pair for name in now for pair in _pairs(now[name], saved.get(name))]
    saved = saved if isinstance(saved, list) else []
    count = max(len(now), len(saved))
    return list(zip(*(items + [None] * (count - len(items)) for items in (list(now), saved))))


def _is_driven(scheduler: _ParamScheduler | None) -> bool:
    return getattr(scheduler, 'need_val_args', False)


def _settings(state: dict[str, Any]) -> dict[str, str]:
    return {k: repr(v) for k, v in state.items() if k not in (*_POSITION, *_RESULTS)}


def _describe_change(now: _ParamScheduler | None, then: dict[str, Any] | None) -> str:
    """Phrase how a scheduler's settings differ from those in the checkpoint; '' if they do not."""
    if now is None:
        return 'one was removed'
    name = type(now).__name__
    if then is None:
        return f'{name} is new'
    new, old = _settings(now.state_dict()), _settings(then)
    if new.keys() != old.keys():
        return f'{name} instead of another one'
    parts = [f'{key} was {old[key]} and is {new[key]}' for key in new if new[key] != old[key]]
    return f'{name}: {", ".join(parts)}' if parts else ''


def _keep_positions(
    pairs: list[tuple[_ParamScheduler | None, dict[str, Any] | None]], changes: list[str]
) -> None:
    """Continue at the checkpoint's values, which depend on earlier results."""
    for now, then in pairs:
        if (not _is_driven(now) and _describe_change(now, then)) or now is None or then is None:
            raise InputError(
                f'The schedules differ from those of the checkpoint ({summarise(changes, 3)}), '
                'and cannot be changed beside one that depends on the results of validations: '
                'resume with the same `param_scheduler`, or start a new training from the weights '
                'with `load_from`.'
            )
        keys = (*_POSITION, *_RESULTS) if _is_driven(now) else then.keys()
        now.load_state_dict({key: then[key] for key in keys if key in then})


def _take_steps(runner: Runner, loop: ResumableLoop) -> None:
    """Take the steps of the training so far, in its order."""
    schedulers = [now for now, _ in _pairs(runner.param_schedulers, None) if now is not None]
    for wrapper in optim_wrappers(runner.optim_wrapper):
        wrapper._global_step = 0  # or mmengine warns that the optimiser has made no step
    by_epoch = [scheduler for scheduler in schedulers if scheduler.by_epoch]
    by_iteration = [scheduler for scheduler in schedulers if not scheduler.by_epoch]
    per_epoch = loop.schedule_steps_per_epoch
    epochs = loop._epoch
    iterations = [per_epoch] * epochs + [loop.schedule_step - epochs * per_epoch]
    for epoch, count in enumerate(iterations):
        if by_iteration:
            for _ in range(count):
                for scheduler in by_iteration:
                    scheduler.step()
        if epoch < epochs:
            for scheduler in by_epoch:
                scheduler.step()
