# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Messages for unknown types and arguments in a config."""

import inspect
import re
from difflib import get_close_matches
from types import FrameType
from typing import Any

import torch
from mmengine.hooks import CheckpointHook
from mmengine.registry import OPTIMIZERS, Registry
from mmengine.runner import Runner

from .errors import InputError, near_matches


def config_error(error: Exception) -> str | None:
    """Message for an unknown type, or an unknown or missing argument, in a config.

    Args:
        error (Exception): The error of building from a config.

    Returns:
        str | None: The message; None if the config is not the cause.
    """
    message = str(error.args[0]) if error.args else ''
    if isinstance(error, KeyError):
        match = re.match(r'(\S+) is not in the .+? registry\.', message)
        if match is None:
            return None
        frame = _building_frame(error)
        known = _registered(frame.f_locals.get('registry')) if frame else []
        close = get_close_matches(match[1].rpartition('.')[2], known, n=3)
        hint = f': did you mean {" or ".join(dict.fromkeys(close))}?' if close else '.'
        return (
            f'{match[0]} Please check its spelling{hint} If it is your own, name its module in '
            '`custom_imports`.'
        )
    if not isinstance(error, TypeError):
        return None
    unknown = re.search(r"([\w.]+)\(\) got an unexpected keyword argument '(\w+)'", message)
    missing = re.search(r'([\w.]+)\(\) missing \d+ required .*argument[^:]*: (.+)', message)
    frame = _building_frame(error)
    if frame is not None and {'obj_cls', 'args'} <= set(frame.f_locals):
        cls, arguments = frame.f_locals['obj_cls'], frame.f_locals['args']
        name = getattr(cls, '__name__', str(cls))
        if unknown and unknown[2] in arguments:
            return _unknown_argument(name, unknown[2], _parameters(cls))
        if missing and missing[1] == f'{name}.__init__':
            return f'{name} needs the argument {missing[2]}, which the config does not contain.'
    last = _last_frame(error)
    if message == 'None is not a callable object':
        return _unknown_optimizer(error)
    if last is None or not last.f_globals.get('__name__', '').startswith('mmengine.'):
        return None
    if unknown:
        # mmengine calls some functions with arguments of the config, such as DataLoader.
        owner, _, method = unknown[1].rpartition('.')
        target = last.f_globals.get(owner) or getattr(torch.utils.data, owner, None)
        if target is not None and method != '__init__':
            target = getattr(target, method, None)
        if target is not None:
            label = owner if method == '__init__' else method
            return _unknown_argument(label, unknown[2], _parameters(target))
    return None


def check_checkpoint_hooks(runner: Runner) -> None:
    """Check the arguments of checkpoint hooks, which mmengine uses only when it saves.

    Args:
        runner (Runner): The runner with its hooks.

    Raises:
        InputError: If a checkpoint hook has an unknown argument.
    """
    saving = _parameters(type(runner).save_checkpoint)
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            for name in set(hook.args or ()) - saving:
                known = _parameters(type(hook)) | saving
                raise InputError(_unknown_argument(type(hook).__name__, name, known))


def _unknown_argument(owner: str, name: str, known: set[str]) -> str:
    hint = near_matches(name, known - {name, 'self', 'runner'})
    return f'{owner} takes no argument "{name}". {hint}'


def _unknown_optimizer(error: BaseException) -> str | None:
    """Message for an unknown optimiser, whose lookup mmengine does not check."""
    step = error.__traceback__
    while step is not None:
        cfg = getattr(step.tb_frame.f_locals.get('self'), 'optimizer_cfg', None)
        if isinstance(cfg, dict) and OPTIMIZERS.get(str(cfg.get('type'))) is None:
            hint = near_matches(str(cfg.get('type')), OPTIMIZERS.module_dict)
            return f'There is no optimizer "{cfg.get("type")}". {hint}'
        step = step.tb_next
    return None


def _last_frame(error: BaseException) -> FrameType | None:
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return step.tb_frame if step is not None else None


def _building_frame(error: BaseException) -> FrameType | None:
    """The innermost frame of mmengine's ``build_from_cfg`` in a traceback."""
    frame, step = None, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_name == 'build_from_cfg':
            frame = step.tb_frame
        step = step.tb_next
    return frame


def _registered(registry: Any) -> list[str]:
    names: list[str] = []
    while isinstance(registry, Registry):
        names += registry.module_dict
        registry = registry.parent
    return names


def _parameters(cls: Any) -> set[str]:
    """Names of a constructor's arguments, with those that it passes on to its base class."""
    found: set[str] = set()
    for base in inspect.getmro(cls)[:-1] if inspect.isclass(cls) else [cls]:
        function = vars(base).get('__init__') if inspect.isclass(base) else base
        if function is None:
            continue
        parameters = inspect.signature(function).parameters.values()
        variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        found.update(p.name for p in parameters if p.kind not in variable)
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return found
