# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Reading of checkpoints as plain data, for this package and for mmengine.

Files may come from untrusted sources. Nothing in them is imported or called
(:mod:`.plain_pickle`), and the unpacked size is bounded by the file's size
(:mod:`.torch_file`). Errors are one sentence that names the file.
"""

import io
import os.path as osp
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.fileio import get_file_backend
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import load_file
from torch import Tensor

from .errors import InputError
from .plain_pickle import DamagedPickleError, UnsafePickleError
from .sharded import read_index
from .torch_file import read_torch_file
from .weight_files import fetch

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


def read_checkpoint(location: str, role: str) -> dict[str, Any]:
    """Read a checkpoint file without running any code from it.

    Args:
        location (str): As for :func:`~mtkdrl_mm.utils.weight_files.fetch`; a file
            of ``torch.save``, ``.safetensors``, or the index of several
            (``.index.json``).
        role (str): Name of the network, for messages.

    Returns:
        dict: The checkpoint's plain data, on the CPU. Objects of training
        scripts (``argparse.Namespace``, paths, dates) are left out, and so is
        ``meta.config``, which mmengine would run as a config.

    Raises:
        InputError: If the file is missing, cannot be downloaded, is damaged, is
            no checkpoint, or would run code.
    """
    contents = _read_plain_data(location, role)
    if not isinstance(contents, dict):
        raise InputError(
            f'{_sentence(role)}: "{location}" holds a {type(contents).__name__}, not a checkpoint '
            '(a dict of weights).'
        )
    if isinstance(contents.get('meta'), dict):
        contents['meta'].pop('config', None)
    return contents


def read_tensor(location: str, role: str) -> Tensor:
    """Read a file that contains one tensor, alone or in a dict, without running code from it.

    Args:
        location (str): As for :func:`read_checkpoint`; also ``.npy``.
        role (str): Name of the tensor, for messages.

    Returns:
        Tensor: The tensor, on the CPU.

    Raises:
        InputError: If the file is unusable or does not contain exactly one
            tensor.
    """
    contents = _read_plain_data(location, role)
    if isinstance(contents, dict) and len(contents) == 1:
        (contents,) = contents.values()
    if not isinstance(contents, Tensor):
        what = f'a dict of {len(contents)} entries' if isinstance(contents, dict) else 'something'
        raise InputError(f'{_sentence(role)}: "{location}" holds {what}, not one tensor.')
    return contents


def _read_plain_data(location: str, role: str) -> Any:
    path = fetch(location, role)
    if path.endswith('.index.json'):
        return _read_shards(path, location, role)
    return _read_file(path, location, role)


def _read_shards(path: str, location: str, role: str) -> dict[str, Any]:
    """Read the weights of several files into one dict."""
    weights: dict[str, Any] = {}
    for name, tensors in read_index(path).items():
        shard = osp.join(osp.dirname(path), name)
        if not osp.isfile(shard):
            raise InputError(
                f'{_sentence(role)}: "{location}" lists the file "{name}", which is missing.'
            )
        contents = _read_file(shard, f'{location}, {name}', role)
        absent = sorted(set(tensors) - set(contents if isinstance(contents, dict) else ()))
        if absent:
            raise InputError(
                f'{_sentence(role)}: "{location}" lists {summarise(absent, 2)} in "{name}", '
                'which has no such tensor. The files are of different versions: download them '
                'again.'
            )
        weights.update({tensor: contents[tensor] for tensor in tensors})
    return weights


def _read_file(path: str, location: str, role: str) -> Any:
    try:
        if path.endswith('.safetensors'):
            return load_file(path)
        if path.endswith('.npy'):
            # Mapped first, because the file must be as large as its header claims.
            return torch.from_numpy(np.array(np.load(path, mmap_mode='r', allow_pickle=False)))
        with open(path, 'rb') as file:
            return _read_torch_file(file, location, role)
    except InputError:
        raise
    except Exception as error:
        raise InputError(_damaged(location, role, error)) from error


def _read_torch_file(file: BinaryIO, location: str, role: str) -> Any:
    try:
        return read_torch_file(file)
    except UnsafePickleError as refusal:
        raise InputError(
            f'{_sentence(role)}: "{location}" was refused, because reading it would run code '
            f'({refusal}). If you trust its source, load it once yourself and save only the '
            'weights, which are under "state_dict", "model" or a similar key: '
            'c = torch.load(FILE, weights_only=False); '
            'torch.save(c.get("state_dict", c.get("model", c)), NEW_FILE)'
        ) from refusal
    except DamagedPickleError as damage:
        raise InputError(_damaged(location, role, damage)) from damage


def _sentence(role: str) -> str:
    return role[:1].upper() + role[1:]


def _damaged(location: str, role: str, error: Exception) -> str:
    reason = str(error).split('\n')[0][:200]
    return (
        f'{_sentence(role)}: "{location}" cannot be read as a checkpoint ({reason}). It is '
        'truncated, damaged, or another kind of file: copy or download it again.'
    )


def register_reader() -> None:
    """Let mmengine's ``CheckpointLoader`` read plain data only, for all kinds of locations.

    It is used by ``load_from``, ``--resume``, ``Pretrained`` and the
    inferencers of mmpretrain, mmdet and mmseg.
    """
    names = ['', 'http://', 'https://', 'pavi://', 'modelzoo://', 'torchvision://']
    names += ['open-mmlab://', 'openmmlab://', 'hf://', 'timm://']
    CheckpointLoader.register_scheme(names, _load_from_plain, force=True)
    CheckpointLoader.register_scheme('mmcls://', _load_from_mmcls, force=True)
    CheckpointLoader.register_scheme(
        [r'(\S+\:)?s3://', r'(\S+\:)?petrel://'], _load_from_ceph, force=True
    )


# mmengine logs the names of these functions without their first ten letters.


def _load_from_plain(filename: Any, map_location: Any = None) -> dict[str, Any]:
    return _to_device(read_checkpoint(str(filename), 'checkpoint'), map_location)


def _load_from_mmcls(filename: Any, map_location: Any = None) -> dict[str, Any]:
    weights = _load_from_plain(filename, map_location)
    weights = weights.get('state_dict', weights)
    prefix = 'backbone.'
    backbone = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
    return dict(state_dict=backbone)


def _load_from_ceph(filename: Any, map_location: Any = None) -> dict[str, Any]:
    backend = get_file_backend(filename, backend_args=dict(backend='petrel'))
    contents = _read_torch_file(io.BytesIO(backend.get(filename)), filename, 'checkpoint')
    if isinstance(contents, dict) and isinstance(contents.get('meta'), dict):
        contents['meta'].pop('config', None)
    return _to_device(contents, map_location)


def _to_device(contents: Any, map_location: Any) -> Any:
    """Move tensors to ``map_location``; without one they stay on the CPU.

    Functions and dicts only remap saved devices, and leave all tensors on the CPU.
    """
    if (
        not isinstance(map_location, (str, torch.device))
        or torch.device(map_location).type == 'cpu'
    ):
        return contents
    if isinstance(contents, Tensor):
        return contents.detach().to(map_location)
    if isinstance(contents, (list, tuple)):
        return type(contents)([_to_device(item, map_location) for item in contents])
    if isinstance(contents, dict):
        for key, value in contents.items():
            contents[key] = _to_device(value, map_location)
    return contents


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
        contents (dict): Result of :func:`read_checkpoint`.
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
        raise InputError(f'{_sentence(role)}: `weights` must be "ema" or "raw", but is {which!r}.')
    raw, averaged = _first(contents, RAW_KEYS), _first(contents, AVERAGED_KEYS)
    meta = contents.get('meta')
    if 'ema_state_dict' in contents and isinstance(meta, dict) and 'mmengine_version' in meta:
        # mmengine's EMAHook swaps the two: `state_dict` contains the averaged weights.
        raw, averaged = averaged, raw
    kind = '' if raw is None or averaged is None else 'raw' if which == 'raw' else 'averaged'
    beside = raw is not None and any(AVERAGED_PREFIX.search(key) for key in raw)
    if which == 'ema' and averaged is None and not beside:
        raise InputError(
            f'{_sentence(role)}: "{location}" holds no averaged weights (its keys are '
            f'{_shown(contents)}). Leave `weights` out.'
        )
    if which == 'raw' or averaged is None:
        found = raw
    else:
        found = averaged
    if found is None and which == 'raw' and averaged is not None:
        raise InputError(
            f'{_sentence(role)}: "{location}" holds averaged weights only (its keys are '
            f'{_shown(contents)}). Leave `weights` out.'
        )
    weights = _tensors(contents if found is None else found)
    if not weights:
        raise InputError(
            f'{_sentence(role)}: "{location}" holds no weights (its keys are {_shown(contents)}), '
            'so it is no checkpoint of a network.'
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
        contents (dict): Result of :func:`read_checkpoint`.
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


def summarise(keys: list[str], most: int = 4) -> str:
    """Join the first keys and count the rest, for messages: ``"a, b and 3 more"``."""
    shown = [key if key.isprintable() else repr(key) for key in keys[:most]]
    rest = len(keys) - most
    return ', '.join(shown) + (f' and {rest} more' if rest > 0 else '')


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` of torch 2.6 and later read mmengine's checkpoints.

    It accepts only the types on its list, and mmengine's checkpoints contain log
    histories, numpy values and counters. Exactly these types are added to the
    list; the protection stays enabled. This package does not need it, but
    scripts around it do.
    """
    add = getattr(torch.serialization, 'add_safe_globals', None)
    if add is None:
        return
    multiarray: tuple[Any, ...] = ()
    core = getattr(np, '_core', None) or np.core
    multiarray = (core.multiarray._reconstruct, core.multiarray.scalar)
    dtypes = [type(np.dtype(kind)) for kind in ('f4', 'f8', 'i4', 'i8', 'b1', 'u1', 'U1')]
    import codecs

    add([HistoryBuffer, Counter, np.ndarray, np.dtype, codecs.encode, *multiarray, *dtypes])
    add([(_history_buffer_attribute, 'builtins.getattr')])


def _history_buffer_attribute(owner: Any, name: str) -> Callable:
    """Replaces the ``getattr`` by which log histories pickle their methods."""
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise ValueError(f'getattr({owner!r}, {name!r}) is not plain data')
