# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Parsing of configs inside files as data, without running them.

mmengine stores a training's config in its checkpoint as Python text, and reads it by running
it. Here it is parsed, and only the output of ``Config.pretty_text`` is accepted.
"""

import ast
import math
from collections.abc import Sequence
from typing import Any

import mmpretrain.registry
from mmengine.config import Config
from mmengine.registry import Registry, root

from .errors import InputError

_MAX_LENGTH = 4 * 2**20
_NAMES = {'inf': math.inf, 'nan': math.nan}
_SCOPES = ('mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'mmseg', 'mtkdrl_mm')
# Of a network in a file, everything is built. Other components of OpenMMLab run files, pickles or
# code in strings when they are built, so that only these packages and modules are trusted ...
_NETWORK_SCOPES = ('mmengine', 'mmcv', 'mmpretrain', 'mtkdrl_mm')
_NETWORK_MODULES = (
    'torch.nn.modules.',
    'mmcv.cnn.bricks.',
    'mmcv.ops.',
    'mmengine.model.',
    'mmengine.utils.dl_utils.',
    'mmpretrain.models.backbones.',
    'mmpretrain.models.classifiers.',
    'mmpretrain.models.heads.',
    'mmpretrain.models.losses.',
    'mmpretrain.models.necks.',
    'mmpretrain.models.peft.',
    'mmpretrain.models.utils.',
    'mtkdrl_mm.models.backbones.',
    'mtkdrl_mm.models.losses.',
    'mtkdrl_mm.models.necks.',
    'mtkdrl_mm.models.timm_classifier.',
)
# ... except for these networks, which may read other files or the network when they are built.
_READING_TYPES = ('HuggingFaceClassifier', 'TimmClassifier', 'TIMMBackbone', 'VQAGenerationHead')
# Keys that name a file or a repository, or allow its code.
_READING_KEYS = (
    'cfg_path',
    'checkpoint',
    'checkpoint_path',
    'name_or_path',
    'pretrained_model_name_or_path',
    'trust_remote_code',
)
_ADVICE = 'If you trust it, pass the config file of the training: --config CONFIG.'


def parse_literal_config(text: str, origin: str) -> dict[str, Any]:
    """Parse the text of a config without running it.

    Args:
        text (str): Output of ``Config.pretty_text``: assignments of numbers,
            strings, lists, tuples, dicts and ``dict(...)``.
        origin (str): Name of the file, for messages.

    Returns:
        dict[str, Any]: The config's keys and values.

    Raises:
        InputError: If it contains anything else.
    """
    if len(text) > _MAX_LENGTH:
        raise InputError(f'The config in {origin} is longer than {_MAX_LENGTH >> 20} MiB.')
    try:
        statements = ast.parse(text).body
        config = {}
        for statement in statements:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else None
            if not isinstance(statement, ast.Assign) or not isinstance(target, ast.Name):
                raise _no_literal(statement)
            config[target.id] = _value(statement.value)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = str(error) or 'it is nested too deeply'
        raise InputError(
            f'The config in {origin} is read as plain values only, and cannot be: {reason}.'
        ) from error
    return config


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        operand = _value(node.operand)
        if type(operand) in (int, float, complex):
            return -operand if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item) for item in node.elts)
    if isinstance(node, ast.Set):
        return {_value(item) for item in node.elts}
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values) if key}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _call(node.func.id, node)
    raise _no_literal(node)


def _call(name: str, node: ast.Call) -> Any:
    """Evaluate ``dict(a=1)``, ``dict({'a.b': 1})`` and ``set()``."""
    if name == 'set' and not node.args and not node.keywords:
        return set()
    if name != 'dict' or len(node.args) > 1 or any(k.arg is None for k in node.keywords):
        raise _no_literal(node)
    made = _value(node.args[0]) if node.args else {}
    if not isinstance(made, dict):
        raise _no_literal(node)
    return {**made, **{str(k.arg): _value(k.value) for k in node.keywords}}


def _no_literal(node: ast.AST) -> ValueError:
    shown = ast.unparse(node).replace('\n', ' ')[:80]
    return ValueError(f'line {getattr(node, "lineno", "?")} holds "{shown}"')


def check_types(config: Any, origin: str, network: bool = False) -> None:
    """Check that every ``type`` in a config inside a file is a registered component.

    Registries import any module that is named by a ``type``, for example
    ``'os.system'``. Building from an untrusted config would therefore run code.

    Args:
        config (Any): A config, or a part of one.
        origin (str): Name of the file, for messages.
        network (bool): Whether it is a network or its preprocessing, which is
            built. Only classes that read nothing are accepted then. Defaults to
            False.

    Raises:
        InputError: If a type is no component of the installed OpenMMLab
            packages or of this one, or if it may read further files, or if a
            key names a file, or if a ``model_name`` is an address.
    """
    known = _registered(_NETWORK_SCOPES if network else _SCOPES)
    pending = [config]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if 'type' in node:
                _check_type(node['type'], known, origin, network)
            if '_scope_' in node:
                _check_scope(node['_scope_'], origin, network)
            for key in _READING_KEYS:
                if key in node:
                    raise InputError(
                        f'The config in {origin} sets `{key}`, by which other files may be read or '
                        f'run. {_ADVICE}'
                    )
            if ':' in str(node.get('model_name', '')):
                raise InputError(
                    f'The config in {origin} names the network "{node["model_name"]}", which would '
                    f'be downloaded. {_ADVICE}'
                )
            pending += node.values()
        elif isinstance(node, (list, tuple)):
            pending += node


def _check_type(kind: Any, known: dict[str, set[Any]], origin: str, network: bool) -> None:
    scope, _, name = str(kind).rpartition('.')
    if not isinstance(kind, str) or name not in known or scope not in ('', *_SCOPES):
        raise InputError(
            f'The config in {origin} names the type {kind!r}, which is no component of the '
            'installed packages. If it is yours, pass the config file of the training: '
            '--config CONFIG.'
        )
    if scope:
        _check_scope(scope, origin, network)
    if name in _READING_TYPES or (network and not all(map(_is_harmless, known[name]))):
        raise InputError(
            f'The config in {origin} names the type {kind!r}, which may read further files or the '
            f'network. {_ADVICE}'
        )


def _check_scope(scope: Any, origin: str, network: bool) -> None:
    if scope not in (_NETWORK_SCOPES if network else _SCOPES):
        raise InputError(
            f'The config in {origin} names a component of the package {scope!r}, which may read '
            f'further files or the network. {_ADVICE}'
        )


def _is_harmless(component: Any) -> bool:
    """Whether building a component reads nothing. mmpretrain registers functions that download."""
    return isinstance(component, type) and f'{component.__module__}.'.startswith(_NETWORK_MODULES)


def _registered(scopes: Sequence[str]) -> dict[str, set[Any]]:
    """The components of all registries of some packages, by their names."""
    found: dict[str, set[Any]] = {}
    # mmpretrain has registries without a parent, such as that of Mixup.
    registries = [
        value
        for package in (root, mmpretrain.registry)
        for value in vars(package).values()
        if isinstance(value, Registry)
    ]
    while registries:
        registry = registries.pop()
        registries += registry.children.values()
        if registry.scope in scopes:
            registry.import_from_location()
            for name, component in registry.module_dict.items():
                found.setdefault(name, set()).add(component)
    return found


def plain_config(config: Any) -> Any:
    """Convert a config to plain dicts, lists, tuples, numbers and strings.

    Args:
        config (Any): A config, or a part of one.

    Returns:
        Any: A copy that can be saved in a checkpoint and read as plain data.
        Classes and functions are replaced by their import paths.
    """
    if isinstance(config, Config):
        config = config.to_dict()
    if isinstance(config, dict):
        return {key: plain_config(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)([plain_config(value) for value in config])
    if isinstance(config, (str, int, float, bool, type(None))):
        return config
    module, name = getattr(config, '__module__', None), getattr(config, '__qualname__', None)
    return f'{module}.{name}' if name else str(config)
