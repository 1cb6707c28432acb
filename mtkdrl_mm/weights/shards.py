# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Weights in several files, as transformers saves large networks.

``model.safetensors.index.json`` lists them: its ``weight_map`` has the name of
every tensor, and the file that it is in.
"""

import json
import os.path as osp

from mtkdrl_mm.utils import InputError

#: Suffixes of the index, by the kind of the files.
INDEX_SUFFIX = {'safetensors': '.safetensors.index.json', 'bin': '.bin.index.json'}


def read_index(path: str) -> dict[str, list[str]]:
    """Read an index.

    Args:
        path (str): Path of the index.

    Returns:
        dict[str, list[str]]: The names of the files, which are in the same
        folder, and the tensors in each.

    Raises:
        InputError: If it is no index, or refers to files in other folders.
    """
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
        names = content['weight_map']
        if not names or not all(isinstance(name, str) for name in names.values()):
            raise ValueError('its `weight_map` is empty or names no files')
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = 'it has no `weight_map`' if isinstance(error, (KeyError, TypeError)) else error
        raise InputError(f'"{path}" is no index of files of weights ({reason}).') from error
    files: dict[str, list[str]] = {}
    for tensor, name in names.items():
        if name != osp.basename(name) or name in ('', '.', '..') or '\\' in name:
            raise InputError(f'"{path}" refers to "{name}", which is not in the same folder.')
        if not name.endswith(('.safetensors', '.bin')):
            raise InputError(f'"{path}" refers to "{name}", which is no .safetensors or .bin.')
        files.setdefault(name, []).append(tensor)
    return files


def find_shards(path: str) -> list[str] | None:
    """Find the files that a file of weights consists of.

    Args:
        path (str): A file of weights, or the index of several.

    Returns:
        list[str] | None: ``path``, and behind an index the files that it lists;
        None if one of them is missing.

    Raises:
        InputError: If it is an unusable index.
    """
    if not path.endswith('.index.json'):
        return [path]
    shards = [osp.join(osp.dirname(path), name) for name in sorted(read_index(path))]
    return [path, *shards] if all(map(osp.isfile, shards)) else None
