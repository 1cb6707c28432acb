# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""timm's names of networks and of their weights, such as ``resnet50.a1_in1k``."""

import difflib
from typing import Any

from .errors import InputError, near_matches

INSTALL = "pip install 'timm>=1.0.9'"


def import_timm(start: str) -> Any:
    """Import timm.

    Args:
        start (str): Begin of the message if it is not installed.

    Returns:
        module: The package.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise InputError(f'{start} which is not installed: {INSTALL}') from error
    return timm


def check_network_name(name: str, role: str = '') -> None:
    """Raise an error unless timm has a network of this name.

    Args:
        name (str): ``ARCHITECTURE[.TAG]``, for example ``resnet50.a1_in1k``.
        role (str): Name of the network, for the message. Defaults to ''.

    Raises:
        InputError: If timm is not installed, or has no such architecture, or no
            such weights of it. The message has similar names.
    """
    start = f'{role[:1].upper()}{role[1:]}: ' if role else ''
    timm = import_timm(f'{start}"{name}" is a network of timm,')
    architecture, _, tag = name.partition('.')
    version = f'{start}timm {timm.__version__}'
    if not timm.is_model(architecture):
        known = _alike(timm.list_models(), architecture)
        raise InputError(
            f'{version} has no network "{architecture}". {near_matches(architecture, known)} '
            'All names: timm.list_models().'
        )
    known = tags(architecture)
    if tag and name not in known:
        raise InputError(
            f'{version} has no weights "{tag}" of "{architecture}". {near_matches(name, known)}'
        )


def tags(architecture: str) -> list[str]:
    """Full names of all weights of an architecture, the default first."""
    import timm

    return [
        name
        for name in timm.list_models(f'{architecture}.*', pretrained=True)
        if name.split('.')[0] == architecture
    ]


def resolve_timm_weights(name: str, role: str) -> str:
    """Look up where timm has the weights of a network.

    Args:
        name (str): ``ARCHITECTURE[.TAG]``; without a tag timm's default.
        role (str): Name of the network, for messages.

    Returns:
        str: An address of the Hugging Face hub (``hf://``), or a URL.

    Raises:
        InputError: If there is no such network, or it has no weights that can
            be read.
    """
    check_network_name(name, role)
    from timm.models import get_pretrained_cfg

    start = f'{role[:1].upper()}{role[1:]}: timm'
    cfg = get_pretrained_cfg(name)
    if cfg is None or not (cfg.hf_hub_id or cfg.url):
        known = tags(name.split('.')[0])
        others = near_matches(name, known) if known else 'Set `checkpoint` to a file of your own.'
        raise InputError(f'{start} has no weights of "{name}". {others}')
    file = cfg.hf_hub_filename
    if (cfg.hf_hub_id and str(file).endswith('.npz')) or (
        not cfg.hf_hub_id and not str(cfg.url).split('?')[0].endswith(('.pth', '.pt', '.bin'))
    ):
        raise InputError(
            f'{start}\'s weights of "{name}" are in JAX\'s format, which cannot be read. Save them '
            'by timm.create_model(NAME, pretrained=True).state_dict(), and set `checkpoint` to '
            'that file.'
        )
    if not cfg.hf_hub_id:
        return str(cfg.url)
    repo, _, revision = cfg.hf_hub_id.partition('@')
    return f'hf://{repo}' + (f'/{file}' if file else '') + (f'@{revision}' if revision else '')


def _alike(names: list[str], name: str) -> list[str]:
    """Select similar names; timm has more than a thousand."""
    found = difflib.get_close_matches(name.lower(), names, n=8, cutoff=0.5)
    family = [other for other in names if other.startswith(name.split('_')[0].lower())]
    return sorted({*found, *family[:12]}) or names[:8]
