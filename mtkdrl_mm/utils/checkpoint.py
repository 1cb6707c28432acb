# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Reading weights that come from strangers."""

import os
import os.path as osp
import pickle
import types
import warnings
from collections import Counter
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.logging import HistoryBuffer, print_log
from safetensors.torch import load_file
from torch import Tensor

from .errors import InputError, near_matches

# What mmengine's training checkpoints hold besides tensors: the log history, numpy
# values, and the milestones of schedules in steps (a Counter). All of it is plain data;
# nothing here can run code.
_SAFE_NAMES = {
    ('mmengine.logging.history_buffer', 'HistoryBuffer'),
    ('numpy.core.multiarray', '_reconstruct'),
    ('numpy.core.multiarray', 'scalar'),
    ('numpy._core.multiarray', '_reconstruct'),
    ('numpy._core.multiarray', 'scalar'),
    ('numpy', 'ndarray'),
    ('numpy', 'dtype'),
    ('_codecs', 'encode'),
    ('collections', 'Counter'),
    ('collections', 'OrderedDict'),
    ('collections', 'defaultdict'),
    ('builtins', 'set'),
    ('builtins', 'complex'),
    ('__builtin__', 'set'),
    ('torch', 'Size'),
    ('torch', 'device'),
    ('torch._utils', '_rebuild_tensor_v2'),
    ('torch._utils', '_rebuild_parameter'),
    ('torch.serialization', '_get_layout'),
    ('torch.nn.parameter', 'Parameter'),
    ('torch', 'Tensor'),
}


def _history_buffer_attribute(owner: Any, name: str) -> Any:
    """Stand in for the `getattr` with which log histories pickle their methods."""
    if owner is HistoryBuffer and not name.startswith('_'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is not plain data')


class _RestrictedUnpickler(pickle.Unpickler):
    """Unpickles the names above, tensors and dtypes, and refuses the rest."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _SAFE_NAMES:
            return super().find_class(module, name)
        if module in ('builtins', '__builtin__') and name == 'getattr':
            return _history_buffer_attribute
        if module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module in ('torch', 'torch.storage') and name.endswith('Storage'):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f'{module}.{name} is not plain data')


def _restricted_load(file: Any, **kwargs: Any) -> Any:
    return _RestrictedUnpickler(file, **kwargs).load()


_restricted_pickle = types.ModuleType('restricted_pickle')
_restricted_pickle.Unpickler = _RestrictedUnpickler  # type: ignore[attr-defined]
_restricted_pickle.load = _restricted_load  # type: ignore[attr-defined]


def read_checkpoint(location: str, role: str) -> dict[str, Any]:
    """Read a checkpoint file without running any code from it.

    Args:
        location (str): Local path, ``http(s)://`` URL, or
            ``torchvision://NAME``; a pickle of torch, or ``.safetensors``.
        role (str): Whose weights they are, for messages.

    Returns:
        dict: The checkpoint's contents, on the CPU.

    Raises:
        InputError: If the file is missing, cannot be fetched, is damaged, is no
            checkpoint, or holds anything but plain data.
    """
    contents = _read_plain_data(location, role)
    if not isinstance(contents, dict):
        raise InputError(
            f'{_sentence(role)}: "{location}" holds a {type(contents).__name__}, not a checkpoint '
            '(a dict of weights).'
        )
    return contents


def read_tensor(location: str, role: str) -> Tensor:
    """Read a file that holds one tensor, alone or in a dict, without running code from it.

    Args:
        location (str): As for :func:`read_checkpoint`.
        role (str): What it is, for messages.

    Returns:
        Tensor: The tensor, on the CPU.

    Raises:
        InputError: If the file is unusable or does not hold exactly one tensor.
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
    if path.endswith('.safetensors'):
        try:
            return load_file(path)
        except Exception as error:
            raise InputError(_damaged(location, role, error)) from error
    try:
        with warnings.catch_warnings():
            # torch 2.1 warns of what it does itself.
            warnings.filterwarnings('ignore', message='TypedStorage is deprecated')
            return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:
        return _read_mmengine_checkpoint(path, location, role, error)


def _read_mmengine_checkpoint(path: str, location: str, role: str, error: Exception) -> Any:
    """Try again, allowing exactly what mmengine's own checkpoints hold."""
    if not isinstance(error, pickle.UnpicklingError):
        raise InputError(_damaged(location, role, error)) from error
    try:
        return torch.load(
            path, map_location='cpu', pickle_module=_restricted_pickle, weights_only=False
        )
    except pickle.UnpicklingError as refusal:
        if 'is not plain data' not in str(refusal):
            raise InputError(_damaged(location, role, refusal)) from refusal
        raise InputError(
            f'{_sentence(role)}: "{location}" was refused, because reading it would run code '
            f'({refusal}). If you trust its source, load it once yourself and save only the '
            'weights: torch.save(torch.load(FILE, weights_only=False)["state_dict"], NEW_FILE).'
        ) from refusal
    except Exception as damage:
        raise InputError(_damaged(location, role, damage)) from damage


def _damaged(location: str, role: str, error: Exception) -> str:
    reason = str(error).split('\n')[0][:200]
    return (
        f'{_sentence(role)}: "{location}" cannot be read as a checkpoint ({reason}). It is '
        'truncated, damaged, or another kind of file: copy or download it again.'
    )


def _sentence(role: str) -> str:
    return role[:1].upper() + role[1:]


def fetch(location: str, role: str) -> str:
    """Turn a location into a local path, downloading if need be.

    URLs are kept in ``$TORCH_HOME/hub/checkpoints``, as torch does. In
    distributed runs one process of every node downloads.

    Args:
        location (str): Local path, URL, or ``torchvision://NAME``.
        role (str): Whose weights they are, for messages.

    Returns:
        str: Path of an existing file.

    Raises:
        InputError: If there is no such file or it cannot be downloaded.
    """
    url = _torchvision_url(location, role) if location.startswith('torchvision://') else location
    scheme = urlparse(url).scheme
    if scheme not in ('http', 'https'):
        if not osp.isfile(url):
            what = 'is a folder' if osp.isdir(url) else 'does not exist'
            raise InputError(f'{_sentence(role)}: the file "{location}" {what}.')
        return url
    folder = osp.join(torch.hub.get_dir(), 'checkpoints')
    path = osp.join(folder, osp.basename(urlparse(url).path))
    if not osp.isfile(path):
        os.makedirs(folder, exist_ok=True)
        if int(os.environ.get('LOCAL_RANK', 0)) == 0:
            print_log(f'Downloading {url} to {path}', 'current')
            try:
                torch.hub.download_url_to_file(url, path, progress=is_main_process())
            except (URLError, OSError, RuntimeError) as error:
                raise InputError(
                    f'{_sentence(role)}: "{url}" cannot be downloaded ({error}). Where there is no '
                    f'internet, fetch it elsewhere and put it at "{path}", or set `checkpoint` '
                    'to a local path.'
                ) from error
    barrier()
    if not osp.isfile(path):
        raise InputError(f'{_sentence(role)}: "{url}" could not be downloaded.')
    return path


def _torchvision_url(location: str, role: str) -> str:
    from mmengine.runner.checkpoint import get_torchvision_models

    name = location[len('torchvision://') :]
    urls = get_torchvision_models()
    if name not in urls:
        raise InputError(
            f'{_sentence(role)}: torchvision has no weights "{name}". {near_matches(name, urls)}'
        )
    return urls[name]


def extract_state_dict(contents: dict[str, Any], location: str, role: str) -> dict[str, Tensor]:
    """Find the weights in a checkpoint.

    Understands plain state dicts and the usual wrappers (``state_dict``,
    ``model``), the ``module.`` prefix of data parallel training, and checkpoints
    of this package, of which the student is taken.

    Args:
        contents (dict): What :func:`read_checkpoint` returned.
        location (str): Where it came from, for messages.
        role (str): Whose weights they are, for messages.

    Returns:
        dict[str, Tensor]: Names to tensors.

    Raises:
        InputError: If there are no tensors in it.
    """
    for wrapper in ('state_dict', 'model_state_dict', 'model'):
        if isinstance(contents.get(wrapper), dict):
            contents = contents[wrapper]
            break
    weights = {k: v for k, v in contents.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not weights:
        raise InputError(
            f'{_sentence(role)}: "{location}" holds no weights (its keys are '
            f'{list(contents)[:5]}), so it is no checkpoint of a network.'
        )
    for prefix in ('module.', 'student.'):
        if any(key.startswith(prefix) for key in weights):
            weights = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
    return weights


def summarise(keys: list[str], most: int = 4) -> str:
    """List the first keys and count the rest, for messages."""
    rest = len(keys) - most
    return ', '.join(keys[:most]) + (f' and {rest} more' if rest > 0 else '')


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` read mmengine's checkpoints where it is strict.

    Since torch 2.6, ``torch.load`` refuses what is not on its list, and
    mmengine's checkpoints hold log histories, numpy values and counters.
    Exactly those are added to the list; the protection stays on.
    """
    add = getattr(torch.serialization, 'add_safe_globals', None)
    if add is None:
        return
    import numpy as np

    multiarray: tuple[Any, ...] = ()
    core = getattr(np, '_core', None) or np.core
    multiarray = (core.multiarray._reconstruct, core.multiarray.scalar)
    dtypes = [type(np.dtype(kind)) for kind in ('f4', 'f8', 'i4', 'i8', 'b1', 'u1', 'U1')]
    import codecs

    add([HistoryBuffer, Counter, np.ndarray, np.dtype, codecs.encode, *multiarray, *dtypes])
    add([(_history_buffer_attribute, 'builtins.getattr')])
