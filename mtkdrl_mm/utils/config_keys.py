# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Top-level keys of a config: those that something reads, and variables of its files.

mmengine takes any, says nothing of those that nothing reads, and keeps the variables of config
files beside the settings for which the files have used them.
"""

import ast
import logging
import os.path as osp
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from itertools import islice
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from .config_components import component_class, components
from .config_errors import parameters
from .data_settings import loader_datasets
from .errors import InputError

# What mmengine and this package read from a config, beside the runner's arguments.
_READ = {
    'activation_checkpointing',
    'compile',
    'custom_imports',
    'data_root',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'held_out_dataloader',
    'metainfo',
    'model_wrapper_cfg',
    'runner_type',
    'skip_damaged_images',
    'strategy',
    'sync_bn',
    'tta_cfg',
    'tta_model',
    'tta_pipeline',
    'variant',
}
# How the command line sets what would change nothing at the top of a file.
_DATA_OPTIONS = dict(data_root='data_root=FOLDER', metainfo='metainfo.classes=NAME,NAME')
KNOWN = frozenset({*_READ, *parameters(Runner)} - {'cfg', 'self'})
# "test_pipeline" is no misspelt "tta_pipeline", and mmdet's and mmseg's configs have both.
_MISSPELT = sorted(name for name in KNOWN if not name.startswith('tta_'))


@dataclass
class Variables:
    """What the files of a config do with its top-level names.

    Attributes:
        used (set[str]): Names that an expression in one of the files reads.
        unread (dict[str, str]): File by name, of those that none does after it has set them.
        num_files (int): Number of files.
        last_file (str): Path of the config file itself, which the others are bases of.
    """

    used: set[str] = field(default_factory=set)
    unread: dict[str, str] = field(default_factory=dict)
    num_files: int = 0
    last_file: str = ''


def find_variables(cfg: Config) -> Variables:
    """Find which top-level names the files of a config use, and which they only set.

    Args:
        cfg (Config): The config as it was read.

    Returns:
        Variables: The names. Of bases that are imported (``read_base``) nothing is known.
    """
    found = Variables()
    for path, text in _files(cfg.text or ''):  # bases precede what is based on them
        found.num_files += 1
        found.last_file = path
        base_reads = {*re.findall(r'\b_base_\s*(?:\.|\[\s*[\'"])\s*(\w+)', text)}
        found.used |= base_reads
        found.unread = {k: v for k, v in found.unread.items() if k not in base_reads}
        try:
            tree = ast.parse(re.sub(r'\{\{.*?\}\}', '0', text)) if path.endswith('.py') else None
        except SyntaxError:
            tree = None
        if tree is None:
            found.unread = {
                k: v for k, v in found.unread.items() if not re.search(rf'\b{k}\b', text)
            }
            continue
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
        written = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        found.used |= read
        found.unread.update(dict.fromkeys(written - read, path))
    return found


def _files(text: str) -> Iterator[tuple[str, str]]:
    """Split mmengine's text of a config into paths and contents of its files."""
    files: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if osp.isabs(line) and line.endswith(('.py', '.json', '.yml', '.yaml')):
            files.append((line, []))
        elif files:
            files[-1][1].append(line)
    for path, lines in files:
        yield path, '\n'.join(lines)


def without_variables(cfg: Config) -> dict[str, Any]:
    """The settings of a config, without the variables of its files.

    Args:
        cfg (Config): The config; options may have been merged into it.

    Returns:
        dict[str, Any]: Plain data. It has the variables that no file uses: a user's own code may
        read them.
    """
    used = find_variables(cfg).used
    return {k: v for k, v in cfg.to_dict().items() if k in KNOWN or k not in used}


def warn_of_unread_keys(cfg: Config) -> None:
    """Warn of top-level keys that nothing reads and that look like misspelt or misplaced ones.

    Those are names near to a known key, and arguments of the distiller. Others may be variables
    of a user's own code.

    Args:
        cfg (Config): The config as it was read.
    """
    variables = find_variables(cfg)
    for name, path in sorted(variables.unread.items()):
        if name in KNOWN or name.startswith('_') or name not in cfg or _places(cfg, name):
            continue
        close = _distiller_arguments(cfg, name)
        # A config that mmengine has written has the values of expressions, and not the expressions
        # that read this variable.
        if close and variables.num_files == 1 and name in cfg.model:
            continue
        close = close or get_close_matches(name, _MISSPELT, n=1, cutoff=0.8)
        if close:
            _warn_once(f'"{name}" in {path} is read by nothing. Did you mean "{close[0]}"?')


def refuse_unread_data_settings(cfg: Config) -> None:
    """Refuse a data folder or classes at the top of a config file that no data set has.

    On the command line they set those of all data sets; in a file they are variables, as all of
    mmengine's, and the bases have used their own already.

    Args:
        cfg (Config): The config as it was read.

    Raises:
        InputError: If the file itself sets ``data_root`` or ``metainfo`` and neither it nor its
            data sets use the value.
    """
    variables = find_variables(cfg)
    for name, option in _DATA_OPTIONS.items():
        path = variables.unread.get(name)
        # What mmengine has written is one file, and has the values that options gave to data sets.
        if variables.num_files == 1 or path is None or path != variables.last_file:
            continue
        if any(_has_setting(dataset, name, cfg[name]) for _, dataset in loader_datasets(cfg)):
            continue
        raise InputError(
            f'`{name}` in "{path}" would change nothing: it is a variable there, and the bases '
            f'have used their own. Set it in the data set of every loader, such as '
            f'train_dataloader = dict(dataset=dict({name}={name})), or leave it out and give it on '
            f'the command line: --cfg-options {option}'
        )


def _has_setting(dataset: dict[str, Any], name: str, value: Any) -> bool:
    """Whether a data set has a folder, or is below it, or has the classes of a ``metainfo``."""
    if name == 'metainfo':
        classes = value.get('classes') if isinstance(value, dict) else None
        own = (dataset.get('metainfo') or {}).get('classes')
        if isinstance(own, Iterable) and isinstance(classes, Iterable):
            return list(own) == list(classes)
        return classes is None or own == classes
    if not isinstance(value, str):
        return True
    folder = osp.normpath(value)
    paths = [dataset.get(key) for key in ('data_root', 'ann_file')]
    return any(
        f'{osp.normpath(path)}/'.startswith(f'{folder}/')
        for path in paths
        if isinstance(path, str) and path
    )


def check_option_keys(cfg: Config, options: Iterable[str]) -> None:
    """Refuse options that would change nothing, by their top-level keys.

    Args:
        cfg (Config): The config without the options.
        options (Iterable[str]): The dotted keys of the options.

    Raises:
        InputError: If a key is a variable that the config file has already used, or neither the
            config's nor read by mmengine or this package.
    """
    variables: Variables | None = None
    for option in options:
        name, dot, rest = option.partition('.')
        if name in KNOWN:
            continue
        close: list[str] = []
        variables = variables or find_variables(cfg)
        meant = _places(cfg, option) if name in cfg else []
        if meant or (name in cfg and name in variables.used):
            meant = meant or [path + dot + rest for path in _distiller_arguments(cfg, name)]
            advice = 'change it in the config file'
            if meant:
                *first, last = meant
                advice = f'set {", ".join(first)} and {last}' if first else f'set {last}'
            raise InputError(
                f'"{name}" is a variable that the config file has already used, so that '
                f'--cfg-options {option}=... would change nothing: {advice}.'
            )
        if name in cfg:
            close = _distiller_arguments(cfg, name)
            if not close:
                continue  # it is of the user's own code
        close = (
            close or [*islice(_paths_to(without_variables(cfg), name), 3)] or _arguments(cfg, name)
        )
        close = close or get_close_matches(name, KNOWN | cfg.keys(), n=3)
        hint = ' or '.join(f'"{path}{dot}{rest}"' for path in close)
        raise InputError(
            f'--cfg-options: nothing reads a top-level key "{name}" of "{option}". '
            + (f'Did you mean {hint}? ' if close else '')
            + 'If it is of your own code, define it in the config file.'
        )


@cache
def _warn_once(message: str) -> None:
    print_log(message, 'current', logging.WARNING)


def _arguments(cfg: Config, name: str) -> list[str]:
    """The keys by which components in the settings of a config have an argument."""
    settings = {key: value for key, value in cfg.to_dict().items() if key in KNOWN}
    found = (path for path, cls in components(settings) if name in parameters(cls))
    return [f'{path}.{name}' for path in islice(found, 3)]


def _distiller_arguments(cfg: Config, name: str) -> list[str]:
    """The key of an argument of the distiller; none without a distiller that has it."""
    cls = component_class(cfg.model.get('type')) if isinstance(cfg.get('model'), dict) else None
    if cls is None or name not in parameters(cls):
        return []
    from mtkdrl_mm.models.distillers import MultiTeacherDistiller  # imports the whole package

    return [f'model.{name}'] if issubclass(cls, MultiTeacherDistiller) else []


def _places(cfg: Config, option: str) -> list[str]:
    """The settings that an option for a variable of a config is meant for.

    Args:
        cfg (Config): The config.
        option (str): A dotted key whose first part is the variable.

    Returns:
        list[str]: The keys at which the settings have the value of the variable, or of the
        outermost part of it on the way of the option; none if there are more than four.
    """
    tree = _plain(cfg.to_dict())
    settings = {key: value for key, value in tree.items() if key in KNOWN}
    parts, value = option.split('.'), tree
    for depth, part in enumerate(parts, 1):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, (list, tuple)) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            break
        found = list(_keys_of(settings, value))
        if isinstance(value, str):  # which others may have by chance
            ends = [(path, path.rpartition('.')[2]) for path in found]
            found = [path for path, end in ends if end in part or part in end]
        elif not isinstance(value, (dict, list, tuple)) or not value:
            found = []
        if 0 < len(found) <= 4:
            return ['.'.join([path, *parts[depth:]]) for path in found]
    return []


def _plain(value: Any) -> Any:
    """A value without the scopes that mmengine adds to those of another package's base."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if key != '_scope_'}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _children(node: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(node, dict):
        return node.items()
    return enumerate(node) if isinstance(node, (list, tuple)) else ()


def _paths_to(node: Any, key: str, path: str = '') -> Iterator[str]:
    """The dotted keys below a part of a config whose last one is given."""
    if path and isinstance(node, dict) and key in node:
        yield f'{path}.{key}'
    for name, value in _children(node):
        yield from _paths_to(value, key, f'{path}.{name}'.lstrip('.'))


def _keys_of(node: Any, wanted: Any, path: str = '') -> Iterator[str]:
    """The dotted keys below a part of a config that have a value."""
    for name, value in _children(node):
        where = f'{path}.{name}'.lstrip('.')
        if value == wanted:
            yield where
        else:
            yield from _keys_of(value, wanted, where)
