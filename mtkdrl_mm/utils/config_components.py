# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""This package's components in a config, and the types that they have by default."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import Registry

from mtkdrl_mm import registry as registries

from .config_errors import parameters


def component_class(kind: Any) -> type | None:
    """Find the class of a component in the registries of this package.

    Args:
        kind (str | type): The ``type`` of a config. The package is imported wholly for a name
            with its scope, before which a config can have none without it.

    Returns:
        type | None: The class; None if it is not registered there.
    """
    found = [each for each in vars(registries).values() if isinstance(each, Registry)]
    own = [each for each in found if each.scope == registries.SCOPE]
    if not isinstance(kind, str):
        is_own = any(kind in each.module_dict.values() for each in own)
        return kind if inspect.isclass(kind) and is_own else None
    scope, dot, name = kind.rpartition('.')
    if scope == registries.SCOPE:
        for each in own:
            each.import_from_location()
    elif dot:
        return None
    named = next((each.module_dict[name] for each in own if name in each.module_dict), None)
    return named if inspect.isclass(named) else None


def components(node: Any, path: str = '') -> Iterator[tuple[str, type]]:
    """Iterate over the components in a config, those that are left to a default included.

    Args:
        node (Any): The config, or a part of it.
        path (str): Its dotted key. Defaults to '', the whole config.

    Yields:
        tuple[str, type]: Dotted key and class, the outer before the inner.
    """
    inner: dict[str, Any] = {}
    if isinstance(node, dict):
        inner = dict(node)
        cls = component_class(node['type']) if node.get('type') else None
        if cls is not None:
            yield path, cls
            defaults = ((key, _default_type(cls, key)) for key in parameters(cls))
            inner = {**{key: dict(type=kind) for key, kind in defaults if kind}, **inner}
    elif isinstance(node, (list, tuple)):
        inner = {str(index): value for index, value in enumerate(node)}
    for key, value in inner.items():
        yield from components(value, f'{path}.{key}'.lstrip('.'))


def fill_default_types(cfg: Config, options: Mapping[str, Any]) -> None:
    """Write out the types of components for which a config relies on the default.

    An option below such a component would else make it a dict without a type:
    ``model.logit_loss.temperature=1`` where the config has no ``logit_loss``, or only the name
    of one.

    Args:
        cfg (Config): The config without the options; changed in place.
        options (Mapping[str, Any]): The options, with dotted keys.
    """
    for option in options:
        node: Any = cfg
        *outer, _ = option.split('.')
        for depth, key in enumerate(outer):
            if isinstance(node, (Config, dict)):
                path = '.'.join(outer[:depth])
                cls = component_class(options.get(f'{path}.type', node.get('type')))
                value = node.get(key, _default_type(cls, key) if cls else None)
                if isinstance(value, str) and cls and _default_type(cls, key):
                    given = f'{path}.{key}.type' in options
                    node[key] = ConfigDict() if given else ConfigDict(type=value)
                node = node.get(key)
            elif isinstance(node, (list, tuple)) and key.isdecimal() and int(key) < len(node):
                node = node[int(key)]
            else:
                break


def _default_type(cls: type, argument: str) -> str | None:
    """The type of the component that a class has as an argument by default."""
    parameter = parameters(cls).get(argument)
    default = parameter.default if parameter else None
    return default if isinstance(default, str) and component_class(default) else None
