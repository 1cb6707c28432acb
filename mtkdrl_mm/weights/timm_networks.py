# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Networks of timm: by their names, such as ``resnet50.a1_in1k``, and on the hub."""

import difflib
import inspect
import json
import sys
from dataclasses import is_dataclass, replace
from typing import Any

from torch import nn

from mtkdrl_mm.utils import InputError, near_matches
from mtkdrl_mm.utils.errors import capitalized
from mtkdrl_mm.utils.optional_packages import import_optional

from .hub import HubAddress, fetch_hub_file

# What `pretrained_cfg` says about data and classifier. Its other keys say where timm would load
# weights from, which is a matter of `checkpoint`.
_DATA_KEYS = (
    'input_size',
    'test_input_size',
    'min_input_size',
    'fixed_input_size',
    'interpolation',
    'crop_pct',
    'test_crop_pct',
    'crop_mode',
    'mean',
    'std',
    'num_classes',
    'label_offset',
    'pool_size',
    'test_pool_size',
    'first_conv',
    'classifier',
)
# Arguments that timm passes on to BatchNorm before it builds a network.
_BATCH_NORM_KEYS = ('bn_eps', 'bn_momentum')


def check_network_name(name: str, role: str = '') -> None:
    """Raise an error unless timm has a network of this name.

    Args:
        name (str): ``ARCHITECTURE[.TAG]``, for example ``resnet50.a1_in1k``.
        role (str): Name of the network, for the message. Defaults to ''.

    Raises:
        InputError: If timm is not installed, or has no such architecture, or no
            such weights of it. The message has similar names.
    """
    start = f'{capitalized(role)}: ' if role else ''
    timm = import_optional('timm', f'{start}"{name}"')
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

    start = f'{capitalized(role)}: timm'
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


def read_hub_network(location: str, kwargs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Read which network a repository of the hub has.

    Args:
        location (str): ``hf://ORG/REPO[@REVISION]``.
        kwargs (dict): Further arguments of ``timm.create_model``, which take
            precedence.

    Returns:
        tuple[str, dict]: timm's name of the architecture, and all arguments of
        ``timm.create_model``.

    Raises:
        InputError: If the repository cannot be read, or was not saved by timm, or
            sets anything but arguments of the network.
    """
    role = f'the network "{location}"'
    address = HubAddress.parse(location, role)
    if address.file is not None:
        raise InputError(
            f'`model_name` must be the address of a repository, but is "{location}". Set '
            '`checkpoint` to the address of the file.'
        )
    path = fetch_hub_file(replace(address, file='config.json'), role)
    try:
        with open(path, encoding='utf-8') as file:
            config = json.load(file)
        architecture = config['architecture']
        # Older versions of timm have saved everything in one dict.
        pretrained = dict(config.get('pretrained_cfg', config))
        arguments = dict(config.get('model_args') or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f'"{location}" is no network of timm: its config.json names no `architecture`. For '
            'another one, set `cfg_path`, and `checkpoint` to the address.'
        ) from error
    check_network_name(str(architecture), role)
    if 'num_classes' in config:
        pretrained['num_classes'] = config['num_classes']
    pretrained = {key: pretrained[key] for key in _DATA_KEYS if _is_plain(pretrained.get(key))}
    arguments = _architecture_arguments(str(architecture), arguments, location)
    return str(architecture), {**arguments, **kwargs, 'pretrained_cfg': pretrained}


def _architecture_arguments(
    architecture: str, arguments: dict[str, Any], location: str
) -> dict[str, Any]:
    """Check that the ``model_args`` of a repository describe nothing but the network.

    By others, such as ``pretrained``, ``pretrained_cfg_overlay`` and ``cache_dir``, timm reads,
    runs or writes files of the repository's choice. The arguments of a network are those of the
    classes in its file of timm.
    """
    import timm

    file = sys.modules[timm.models.model_entrypoint(architecture).__module__]
    classes = [
        value
        for value in vars(file).values()
        if inspect.isclass(value) and (issubclass(value, nn.Module) or is_dataclass(value))
    ]
    known = {key for value in classes for key in inspect.signature(value).parameters}
    for builder in (timm.create_model, timm.models.build_model_with_cfg):
        known -= inspect.signature(builder).parameters.keys()
    known.update(_BATCH_NORM_KEYS)
    # timm leaves out arguments that are None.
    arguments = {key: value for key, value in arguments.items() if value is not None}
    for key, value in arguments.items():
        if key not in known or not _is_plain(value):
            raise InputError(
                f'The config.json of "{location}" sets `{key}` in `model_args`, but only numbers, '
                f'names and lists for arguments of the network "{architecture}" are read from the '
                f"hub. If you trust it, set `model_name='{architecture}'`, `checkpoint` to the "
                'address, and the arguments yourself.'
            )
    return arguments


def _is_plain(value: Any) -> bool:
    """Whether a value is a number, a string, or a list of them."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return isinstance(value, (bool, int, float, str))


def _alike(names: list[str], name: str) -> list[str]:
    """Select similar names; timm has more than a thousand."""
    found = difflib.get_close_matches(name.lower(), names, n=8, cutoff=0.5)
    family = [other for other in names if other.startswith(name.split('_')[0].lower())]
    return sorted({*found, *family[:12]}) or names[:8]
