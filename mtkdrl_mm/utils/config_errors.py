# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Messages for unknown types and arguments in a config, and for values that are refused."""

import inspect
import logging
import multiprocessing
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import islice
from traceback import walk_tb
from types import FrameType
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import OPTIMIZERS, Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from .data_settings import LOADERS
from .errors import InputError, check_number, near_matches

# Packages whose classes say what is wrong about a setting by an error of any type.
_LIBRARIES = {'mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'mmseg', 'torch', 'torchvision', 'timm'}


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
            return _unknown_argument(name, unknown[2], parameters(cls))
        if missing and missing[1] == f'{name}.__init__':
            return f'{name} needs the argument {missing[2]}, which the config does not contain.'
    last = next((frame for frame, _ in reversed([*walk_tb(error.__traceback__)])), None)
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
            return _unknown_argument(label, unknown[2], parameters(target))
    return None


def refused_settings(error: Exception) -> str | None:
    """Message for a setting that a class of OpenMMLab or torch has refused while it was built.

    Errors in the code of a user's own class are left alone: they need their
    traceback.

    Args:
        error (Exception): The error of building from a config.

    Returns:
        str | None: The message; None if nothing was being built.
    """
    steps = list(walk_tb(error.__traceback__))
    frames = [frame for frame, _ in steps]
    if not isinstance(error, (ValueError, TypeError, AssertionError, KeyError)):
        return None
    built = next(filter(None, map(_what_is_built, reversed(frames))), None)
    if built is None:
        return None
    cls, cfg, settings = built
    modules = (getattr(cls, '__module__', ''), frames[-1].f_globals.get('__name__', ''))
    if not _LIBRARIES & {name.partition('.')[0] for name in modules}:
        return None
    text = ' '.join(str(error.args[0] if error.args else '').split()).rstrip('.')
    plain = {
        key: repr(value)
        for key, value in settings.items()
        if isinstance(value, (str, int, float, list, tuple)) and len(repr(value)) <= 60
    }
    named = {key: value for key, value in plain.items() if re.search(rf'\b{key}\b', text)}
    shown = ', '.join(f'{key}={value}' for key, value in islice((named or plain).items(), 8))
    methods = (frame for frame in frames if frame.f_code.co_varnames[:1] == ('self',))
    owners = (frame.f_locals.get('self') for frame in methods)
    configs = (one.cfg.to_dict() for one in owners if isinstance(one, Runner))
    path = next((_path_of(cfg, one) for one in configs), '')
    file = frames[-1].f_code.co_filename.rpartition('site-packages/')[2]
    return (
        (f'`{path}`: ' if path else '')
        + f'{getattr(cls, "__name__", cls)} refuses its settings'
        + (f' ({shown})' if shown else '')
        + (f': {text}' if text else '')
        + f'. (Raised in {file}, line {steps[-1][1]}.)'
    )


def check_settings(cfg: Config) -> None:
    """Check settings that mmengine uses without a check of its own, some of them late.

    Args:
        cfg (Config): The merged config.

    Raises:
        InputError: If one is of the wrong kind or out of range.
    """
    for key, minimum in (('batch_size', 1), ('num_workers', 0)):
        for name in LOADERS:
            loader = cfg.get(name)
            # Without a batch size, torch leaves batches to the sampler.
            if isinstance(loader, dict) and loader.get(key) is not None:
                check_number(f'{name}.{key}', loader[key], minimum=minimum)
    seed = (cfg.get('randomness') or {}).get('seed')
    if seed is not None:
        check_number('randomness.seed', seed, maximum=2**32 - 1)
    window = (cfg.get('log_processor') or {}).get('window_size', 10)
    check_number('log_processor.window_size', window, minimum=1)
    level = cfg.get('log_level', 'INFO')
    if isinstance(level, str) and not isinstance(logging.getLevelName(level), int):
        known = ('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL')
        raise InputError(f'There is no `log_level` "{level}". {near_matches(level, known)}')
    method = ((cfg.get('env_cfg') or {}).get('mp_cfg') or {}).get('mp_start_method')
    methods = multiprocessing.get_all_start_methods()
    if method is not None and method not in methods:
        raise InputError(
            f'There is no `env_cfg.mp_cfg.mp_start_method` "{method}". '
            f'{near_matches(str(method), methods)}'
        )
    clip_grad = (cfg.get('optim_wrapper') or {}).get('clip_grad') or {}
    for key in ('max_norm', 'clip_value'):
        if key in clip_grad:
            check_number(f'optim_wrapper.clip_grad.{key}', clip_grad[key])


def check_checkpoint_hooks(runner: Runner) -> None:
    """Check the arguments of checkpoint hooks, which mmengine uses only when it saves.

    Args:
        runner (Runner): The runner with its hooks.

    Raises:
        InputError: If a checkpoint hook has an unknown argument, or a number
            is none.
    """
    saving = parameters(type(runner).save_checkpoint).keys()
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            for name in ('interval', 'max_keep_ckpts'):
                check_number(f'{name} of {type(hook).__name__}', getattr(hook, name), minimum=-1)
            for name in set(hook.args or ()) - saving:
                known = parameters(type(hook)).keys() | saving
                raise InputError(_unknown_argument(type(hook).__name__, name, known))


def _unknown_argument(owner: str, name: str, known: Iterable[str]) -> str:
    hint = near_matches(name, set(known) - {name, 'self', 'runner'})
    return f'{owner} takes no argument "{name}". {hint}'


def _unknown_optimizer(error: BaseException) -> str | None:
    """Message for an unknown optimiser, whose lookup mmengine does not check."""
    for frame, _ in walk_tb(error.__traceback__):
        cfg = getattr(frame.f_locals.get('self'), 'optimizer_cfg', None)
        if isinstance(cfg, dict) and OPTIMIZERS.get(str(cfg.get('type'))) is None:
            hint = near_matches(str(cfg.get('type')), OPTIMIZERS.module_dict)
            return f'There is no optimizer "{cfg.get("type")}". {hint}'
    return None


def _building_frame(error: BaseException) -> FrameType | None:
    """The innermost frame of mmengine's ``build_from_cfg`` in a traceback."""
    built = [
        frame
        for frame, _ in walk_tb(error.__traceback__)
        if frame.f_code.co_name == 'build_from_cfg'
    ]
    return built[-1] if built else None


def _what_is_built(frame: FrameType) -> tuple[type, Mapping, Mapping] | None:
    """What a frame builds: the class or function, its config, and its arguments."""
    name = frame.f_code.co_name
    # Reading the variables of an outer frame would keep alive what they refer to.
    found = frame.f_locals if name.startswith('build_') else {}
    if name == 'build_from_cfg' and {'obj_cls', 'args'} <= set(found):
        return found['obj_cls'], found['cfg'], found['args']
    if name == 'build_dataloader' and isinstance(found.get('dataloader'), dict):
        return DataLoader, found['dataloader'], found['dataloader']
    return None


def _path_of(cfg: Mapping, node: Any, path: str = '') -> str:
    """Where a config is in another one, by its settings: 'model.backbone'; empty if nowhere."""
    if isinstance(node, dict):
        # mmengine adds arguments to some, and takes the type from others.
        same = [key in cfg and cfg[key] == value for key, value in node.items() if key != 'type']
        if (
            node
            and all(same)
            and cfg.get('type', node.get('type') if same else None) == node.get('type')
        ):
            return path
        inner = ((f'{path}.{key}'.lstrip('.'), value) for key, value in node.items())
    elif isinstance(node, (list, tuple)):
        inner = ((f'{path}.{i}', value) for i, value in enumerate(node))
    else:
        return ''
    return next(filter(None, (_path_of(cfg, value, where) for where, value in inner)), '')


def _registered(registry: Any) -> list[str]:
    names: list[str] = []
    while isinstance(registry, Registry):
        names += registry.module_dict
        registry = registry.parent
    return names


def parameters(cls: Any) -> dict[str, inspect.Parameter]:
    """The arguments of a constructor, with those that it passes on to its base class.

    Args:
        cls (type | Callable): A class, or a function.

    Returns:
        dict[str, inspect.Parameter]: The arguments by name.
    """
    found: dict[str, inspect.Parameter] = {}
    for base in inspect.getmro(cls)[:-1] if inspect.isclass(cls) else [cls]:
        function = vars(base).get('__init__') if inspect.isclass(base) else base
        if function is None:
            continue
        taken = inspect.signature(function).parameters
        variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        found = {**{name: p for name, p in taken.items() if p.kind not in variable}, **found}
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values()):
            break
    return found
