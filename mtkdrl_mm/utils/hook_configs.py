# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The hooks in a config, wherever they stand."""

from collections.abc import Mapping
from typing import Any


def hook_configs(cfg: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The configs of all hooks: those of ``default_hooks``, then those of ``custom_hooks``.

    Args:
        cfg (Mapping): The whole config.

    Returns:
        list[dict[str, Any]]: Without hooks that are switched off, or built already.
    """
    default, custom = cfg.get('default_hooks'), cfg.get('custom_hooks')
    hooks = list(default.values()) if isinstance(default, Mapping) else []
    hooks += list(custom) if isinstance(custom, (list, tuple)) else []
    return [hook for hook in hooks if isinstance(hook, dict)]


def kind_of(component: Mapping[str, Any]) -> str:
    """Name of the class of a hook, or another component, without its scope; '' without a type."""
    kind = component.get('type', '')
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')


def find_hook(cfg: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Find the config of a hook by its class.

    Args:
        cfg (Mapping): The whole config.
        name (str): Name of the class, for example "AgentHook".

    Returns:
        dict | None: The first one; None without such a hook.

    Example:
        >>> from mtkdrl_mm.utils.hook_configs import find_hook
        >>> find_hook(dict(custom_hooks=[dict(type='mtkdrl_mm.AgentHook')]), 'AgentHook')
        {'type': 'mtkdrl_mm.AgentHook'}
    """
    return next((hook for hook in hook_configs(cfg) if kind_of(hook) == name), None)
