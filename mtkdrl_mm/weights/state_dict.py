# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A network's weights among the contents of a checkpoint, whichever script has written it."""

import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.errors import capitalized

# Keys under which training scripts save a network's weights, and their running averages.
RAW_KEYS = ('state_dict', 'model_state_dict', 'model_state', 'model', 'network', 'net', 'params')
AVERAGED_KEYS = (
    'state_dict_ema',
    'model_ema',
    'ema_state_dict',
    'model_ema_state_dict',
    'ema_model',
    'ema',
    'params_ema',
)
# Prefix of averaged weights in a state dict that contains both.
AVERAGED_PREFIX = re.compile(r'(?:^|[._])ema(?:[._]|$)')


@dataclass
class FoundWeights:
    """Weights of a network in a checkpoint.

    Attributes:
        weights (dict[str, Tensor]): The tensors by their names in the file.
        kind (str): 'averaged' or 'raw' if the file has both, else ''.
    """

    weights: dict[str, Tensor]
    kind: str = ''


def find_weights(
    contents: dict[str, Any], location: str, role: str, which: str | None = None
) -> FoundWeights:
    """Find the weights in a checkpoint.

    Supported are plain state dicts, the usual keys (``state_dict``, ``model``,
    ...), pickled networks, and the running averages (EMA) of timm, DeiT,
    ultralytics and mmengine.

    Args:
        contents (dict): Result of :func:`~.checkpoint.read_checkpoint`.
        location (str): Path or URL of the file, for messages.
        role (str): Name of the network, for messages.
        which (str, optional): 'ema' or 'raw', if the file has both. Defaults to
            None: the averaged ones, which timm, ultralytics and mmengine use as
            well.

    Returns:
        FoundWeights: The weights and their kind.

    Raises:
        InputError: If the checkpoint contains no tensors, or not those of
            ``which``.
    """
    if which not in (None, 'ema', 'raw'):
        raise InputError(
            f'{capitalized(role)}: `weights` must be "ema" or "raw", but is {which!r}.'
        )
    raw, averaged = _first(contents, RAW_KEYS), _first(contents, AVERAGED_KEYS)
    meta = contents.get('meta')
    if 'ema_state_dict' in contents and isinstance(meta, dict) and 'mmengine_version' in meta:
        # mmengine's EMAHook swaps the two: `state_dict` contains the averaged weights.
        raw, averaged = averaged, raw
    kind = '' if raw is None or averaged is None else 'raw' if which == 'raw' else 'averaged'
    beside = raw is not None and any(AVERAGED_PREFIX.search(key) for key in raw)
    if which == 'ema' and averaged is None and not beside:
        raise InputError(
            f'{capitalized(role)}: "{location}" holds no averaged weights (its keys are '
            f'{_shown(contents)}). Leave `weights` out.'
        )
    if which == 'raw' or averaged is None:
        found = raw
    else:
        found = averaged
    if found is None and which == 'raw' and averaged is not None:
        raise InputError(
            f'{capitalized(role)}: "{location}" holds averaged weights only (its keys are '
            f'{_shown(contents)}). Leave `weights` out.'
        )
    weights = _tensors(contents if found is None else found)
    if not weights:
        raise InputError(
            f'{capitalized(role)}: "{location}" holds no weights (its keys are '
            f'{_shown(contents)}), so it is no checkpoint of a network.'
        )
    return FoundWeights(weights, kind)


def _first(contents: dict[str, Any], keys: Iterable[str]) -> dict[str, Any] | None:
    """The first entry that contains tensors, directly or one level below."""
    for key in keys:
        value = contents.get(key)
        if not isinstance(value, dict):
            continue
        if _tensors(value):
            return value
        inner = [value[k] for k in (*RAW_KEYS, 'module') if isinstance(value.get(k), dict)]
        for candidate in inner:
            if _tensors(candidate):
                return candidate
    return None


def _tensors(contents: dict[str, Any]) -> dict[str, Tensor]:
    found = OrderedDict(
        (k, v) for k, v in contents.items() if isinstance(k, str) and isinstance(v, Tensor)
    )
    if hasattr(contents, '_metadata'):  # the versions of the modules
        found._metadata = contents._metadata  # type: ignore[attr-defined]
    return found


def _shown(contents: dict[str, Any]) -> list[Any]:
    return list(contents)[:5]


def extract_state_dict(contents: dict[str, Any], location: str, role: str) -> dict[str, Tensor]:
    """Find the weights in a checkpoint, without the prefixes of this package and of DDP.

    It removes the prefix ``module.`` from the result of :func:`find_weights`,
    and selects the student in checkpoints of this package. For a given network,
    :func:`mtkdrl_mm.models.load_weights.fit_state_dict` removes any prefix.

    Args:
        contents (dict): Result of :func:`~.checkpoint.read_checkpoint`.
        location (str): Path or URL of the file, for messages.
        role (str): Name of the network, for messages.

    Returns:
        dict[str, Tensor]: The tensors by name.

    Raises:
        InputError: If the checkpoint contains no tensors.
    """
    weights = find_weights(contents, location, role).weights
    for prefix in ('module.', 'student.'):
        if any(key.startswith(prefix) for key in weights):
            weights = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
    return weights
