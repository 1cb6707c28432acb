# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Building of components from config dicts, with errors that name the remedy."""

import inspect
from collections.abc import Iterable
from typing import Any, TypeVar

from mmengine.config import ConfigDict
from mmengine.registry import Registry

from .errors import InputError, near_matches

T = TypeVar('T')


def build_component(
    registry: Registry,
    cfg: dict[str, Any] | str,
    base: type[T],
    role: str,
    **shared: Any,
) -> T:
    """Build a component and check its base class.

    Unlike ``registry.build``, the type is looked up in ``registry`` (and its
    parents) whatever the config's default scope is, so that
    ``weighting=dict(type='AVER')`` works in an mmpretrain config.

    Args:
        registry (Registry): Where to look the type up.
        cfg (dict | str): Config with a ``type``, or just the type's name.
        base (type): Class that the component must derive from.
        role (str): What it is, in the user's words: "weighting", "agent", ...
        **shared: Arguments that the caller supplies; passed on only if the
            constructor takes them.

    Returns:
        object: The built component.

    Raises:
        InputError: If the type is unknown or of another family, or if an
            argument is unknown, missing or refused.
    """
    if isinstance(cfg, base):
        return cfg
    cls, arguments = check_component(registry, cfg, base, role, shared)
    accepted = _accepted_arguments(cls)
    if accepted is not None:
        shared = {key: value for key, value in shared.items() if key in accepted}
    try:
        return cls(**{**shared, **arguments})
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f'The {role} "{cls.__name__}": {error}') from error


def check_component(
    registry: Registry,
    cfg: dict[str, Any] | str,
    base: type[T],
    role: str,
    supplied: Iterable[str] = (),
) -> tuple[type[T], dict[str, Any]]:
    """Check type and arguments of a component that is built later.

    Args:
        registry (Registry): Where to look the type up.
        cfg (dict | str): Config with a ``type``, or just the type's name.
        base (type): Class that the component must derive from.
        role (str): What it is, in the user's words.
        supplied (Iterable[str]): Names of the arguments that the code supplies.

    Returns:
        tuple[type, dict]: The class and the config's arguments.

    Raises:
        InputError: If the type is unknown or of another family, or an argument
            is unknown.
    """
    if isinstance(cfg, str):
        cfg = dict(type=cfg)
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise InputError(f'The {role} must be a dict with a `type`, but is {cfg!r}.')
    arguments = ConfigDict(cfg).to_dict() if isinstance(cfg, ConfigDict) else dict(cfg)
    name = arguments.pop('type')
    cls = registry.get(name) if isinstance(name, str) else name
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        family = [
            n for n, c in registry.module_dict.items() if inspect.isclass(c) and issubclass(c, base)
        ]
        label = name if isinstance(name, str) else getattr(name, '__name__', repr(name))
        raise InputError(f'Unknown {role} "{label}". {near_matches(str(label), family)}')
    accepted = _accepted_arguments(cls)
    if accepted is not None:
        for key in arguments:
            if key not in accepted:
                known = [n for n in accepted if n not in supplied]
                raise InputError(
                    f'The {role} "{cls.__name__}" takes no argument "{key}". '
                    f'{near_matches(key, known)}{_inherited(registry, base, key)}'
                )
    return cls, arguments


def _inherited(registry: Registry, base: type, key: str) -> str:
    """Advice for an argument of another component, which is likely the base config's."""
    owners = sorted(
        name
        for name, kind in registry.module_dict.items()
        if inspect.isclass(kind)
        and issubclass(kind, base)
        and key in (_accepted_arguments(kind) or [])
    )
    if not owners:
        return ''
    return (
        f' It is an argument of {", ".join(owners)}: where a base config has that one, put '
        '`_delete_=True` beside the new `type`.'
    )


def _accepted_arguments(cls: type) -> list[str] | None:
    """Names of a constructor's arguments; None if it takes any.

    ``**kwargs`` stand for the arguments of the base class.
    """
    names: list[str] = []
    for kind in cls.__mro__[:-1]:
        if kind is not cls and '__init__' not in vars(kind):
            continue
        # Of the class and not of __init__: that of a class without one takes anything.
        parameters = inspect.signature(kind).parameters.values()
        names += [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names
    return None
