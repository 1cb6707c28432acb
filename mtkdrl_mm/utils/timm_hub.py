# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Networks that timm has saved to the Hugging Face hub, with their ``config.json``."""

import json
from dataclasses import fields, replace
from typing import Any

from .errors import InputError
from .hub import HubAddress, fetch_hub_file
from .timm_names import check_network_name


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
        InputError: If the repository cannot be read, or was not saved by timm.
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
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'"{location}" is no network of timm: its config.json names no `architecture`. For '
            'another one, set `cfg_path`, and `checkpoint` to the address.'
        ) from error
    check_network_name(str(architecture), role)
    from timm.models import PretrainedCfg

    for key in ('num_classes', 'label_names'):
        if key in config:
            pretrained[key] = config[key]
    known = {field.name for field in fields(PretrainedCfg)}
    pretrained = {key: value for key, value in pretrained.items() if key in known}
    # Where the weights are is a matter of `checkpoint`.
    for key in ('url', 'file', 'state_dict', 'hf_hub_id', 'hf_hub_filename', 'source'):
        pretrained.pop(key, None)
    arguments = {**arguments, **kwargs, 'pretrained_cfg': pretrained}
    return str(architecture), arguments
