# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Reading of checkpoints as plain data, for this package and for mmengine.

Files may come from untrusted sources. Nothing in them is imported or called
(:mod:`.plain_pickle`), and the unpacked size is bounded by the file's size
(:mod:`.torch_file`). Errors are one sentence that names the file.
"""

import io
import os.path as osp
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.fileio import get_file_backend
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import load_file
from torch import Tensor

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.errors import capitalized, first_line, summarise

from .locations import fetch
from .plain_pickle import DamagedPickleError, UnsafePickleError
from .shards import read_index
from .torch_file import read_torch_file


def read_checkpoint(location: str, role: str) -> dict[str, Any]:
    """Read a checkpoint file without running any code from it.

    Args:
        location (str): As for :func:`~mtkdrl_mm.weights.locations.fetch`; a file
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
            f'{capitalized(role)}: "{location}" holds a {type(contents).__name__}, not a '
            'checkpoint (a dict of weights).'
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
        raise InputError(f'{capitalized(role)}: "{location}" holds {what}, not one tensor.')
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
                f'{capitalized(role)}: "{location}" lists the file "{name}", which is missing.'
            )
        contents = _read_file(shard, f'{location}, {name}', role)
        absent = sorted(set(tensors) - set(contents if isinstance(contents, dict) else ()))
        if absent:
            raise InputError(
                f'{capitalized(role)}: "{location}" lists {summarise(absent, 2)} in "{name}", '
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
            return _read_torch_file(file, path, location, role)
    except InputError:
        raise
    except Exception as error:
        raise InputError(_damaged(path, location, role, error)) from error


def _read_torch_file(file: BinaryIO, path: str | None, location: str, role: str) -> Any:
    try:
        return read_torch_file(file)
    except UnsafePickleError as refusal:
        raise InputError(
            f'{capitalized(role)}: "{location}" was refused, because reading it would run code '
            f'({refusal}). If you trust its source, load it once yourself and save only the '
            'weights, which are under "state_dict", "model" or a similar key: '
            'c = torch.load(FILE, weights_only=False); '
            'torch.save(c.get("state_dict", c.get("model", c)), NEW_FILE)'
        ) from refusal
    except DamagedPickleError as damage:
        raise InputError(_damaged(path, location, role, damage)) from damage


def _damaged(path: str | None, location: str, role: str, error: Exception) -> str:
    remedy = 'copy it again'
    if path is not None and '://' in location:
        # In the hub's cache, the path is a link to the file.
        remedy = f'remove "{osp.realpath(path)}" to download it again'
    return (
        f'{capitalized(role)}: "{location}" cannot be read as a checkpoint '
        f'({first_line(error)}). It is truncated, damaged, or another kind of file: {remedy}.'
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
    contents = _read_torch_file(io.BytesIO(backend.get(filename)), None, filename, 'checkpoint')
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
