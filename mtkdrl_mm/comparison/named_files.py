# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The files on which a config depends."""

import hashlib
import os
import os.path as osp
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from mmengine.config import Config

from mtkdrl_mm.teacher_outputs import Manifest
from mtkdrl_mm.teacher_outputs.paths import MANIFEST
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.package_configs import read_network_file

_VARIABLE = re.compile(
    r"""\{\{['"]?\s*\$(\w+)\s*:|(?:\benviron(?:\.\w+)?\s*[\[(]|\bgetenv\s*\()\s*['"](\w+)"""
)


def named_files(config: Config) -> dict[str, str]:
    """Find the files that a config names, at whatever key.

    Those are checkpoints, lists of labels, class maps, and the configs behind
    ``cfg_path`` with what they name in turn. Files in a ``data_root`` may be
    named relative to it. Folders, such as those of images, are left out; of stores, see
    :func:`stored_outputs`.

    Args:
        config (Config): The config.

    Returns:
        dict[str, str]: The sha256 of every file's contents, or of a config as it
        is resolved, by its path in the config, sorted. The path of a config that reads
        ``RUN_SEED`` is followed by ``with RUN_SEED=N``, if that is set.
    """
    return dict(sorted(_walk(config.to_dict(), '')))


def stored_outputs(
    root: str, folders: Sequence[str], first_views: int | None = None, name: str | None = None
) -> dict[str, str]:
    """Find what a training reads from a store of teacher outputs.

    Args:
        root (str): The store.
        folders (Sequence[str]): Those in it that the training reads, of the inputs and of its
            teachers. What else the store holds, such as other teachers, does not matter.
        first_views (int, optional): How many views it reads. Defaults to None: all.
        name (str, optional): What stands for the store's folder in the paths, of a store
            whose place does not matter. Defaults to None: the folder.

    Returns:
        dict[str, str]: A digest of every folder's contents by the path of its manifest, see
        :meth:`~mtkdrl_mm.teacher_outputs.Manifest.digest_for_reading`. What is not stored yet is
        left out, and what is damaged, which the training will say.
    """
    found = {}
    for folder in folders:
        try:
            manifest = Manifest.find(osp.join(root, folder))
        except InputError:
            continue
        if manifest is not None:
            digest = manifest.digest_for_reading(first_views or manifest.views.num_views)
            found[osp.join(name or root, folder, MANIFEST)] = digest
    return found


def read_variables(
    config: Config, candidates: Iterable[str] = (), behind_paths: bool = True
) -> set[str]:
    """Find the environment variables that a config reads.

    Args:
        config (Config): The config.
        candidates (Iterable[str]): Names that count as read also if they are just a string in
            the config, whose Python may read them by other means. Of a config that imports its
            bases (``read_base``) all of them count: the text of its bases is not known. Defaults
            to ().
        behind_paths (bool): Whether the configs behind ``cfg_path`` count, too. Defaults to True.

    Returns:
        set[str]: Their names, set or not: of ``{{$NAME:default}}`` and of ``os.environ`` in its
        file, its bases and the configs behind ``cfg_path``.
    """
    text = '\n'.join(_texts(config) if behind_paths else [config.text])
    found = {name for names in _VARIABLE.findall(text) for name in names if name}
    imported = 'read_base' in text
    return found | {
        one for one in candidates if imported or f"'{one}'" in text or f'"{one}"' in text
    }


def _texts(config: Config) -> Iterator[str]:
    """The text of a config with its bases, and of the configs behind ``cfg_path``."""
    yield config.text
    for path in _config_paths(config.to_dict()):
        inner = _read(path)
        if inner is not None:
            yield from _texts(inner)


def _config_paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        path = value.get('cfg_path')
        if isinstance(path, str):
            yield path
    if isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _config_paths(item)


def changed_file(before: Mapping[str, str], now: Iterable[tuple[str, str]]) -> str | None:
    """Find a file whose contents have changed; files that are gone count as unchanged.

    Args:
        before (Mapping[str, str]): Digests by path, from :func:`named_files`.
        now (Iterable[tuple[str, str]]): Paths and digests.

    Returns:
        str | None: Path of the first one; None if there is none.
    """
    return next((path for path, digest in now if before.get(path, digest) != digest), None)


def _walk(value: Any, root: str) -> Iterator[tuple[str, str]]:
    """Find files below a value of a config, with the ``data_root`` that holds there."""
    if isinstance(value, dict):
        inner = value.get('data_root')
        root = inner if isinstance(inner, str) else root
        for key, item in value.items():
            if key == 'cfg_path' and isinstance(item, str):
                yield from _walk_config(item)
            else:
                yield from _walk(item, root)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _walk(item, root)
    elif isinstance(value, str) and value:
        for path in dict.fromkeys((value, osp.join(root, value))):
            if _is_file(path):
                yield path, _digest(osp.realpath(path), *_state(path))


def _walk_config(path: str) -> Iterator[tuple[str, str]]:
    """The contents of another config, and the files that it names."""
    config = _read(path)
    if config is not None:
        # Results of earlier versions have the contents with their first seed under the bare path.
        seed = os.environ.get('RUN_SEED') if _reads_seed(config) else None
        name = path if seed is None else f'{path} with RUN_SEED={seed}'
        yield name, hashlib.sha256(repr(config.to_dict()).encode()).hexdigest()
        yield from _walk(config.to_dict(), '')


def _reads_seed(config: Config) -> bool:
    return 'RUN_SEED' in read_variables(config, ['RUN_SEED'], behind_paths=False)


def _read(path: str) -> Config | None:
    """A config; None if it cannot be read, which the training will say.

    It is read once for each seed only if it reads the seed: reading takes tenths of a second.
    """
    environment = frozenset(os.environ.items())
    unseeded = frozenset(item for item in environment if item[0] != 'RUN_SEED')
    config = _read_once(path, unseeded)
    if config is None or _reads_seed(config):
        config = _read_once(path, environment)
    return config


@cache
def _read_once(path: str, environment: frozenset) -> Config | None:
    """A config as it is with the environment variables of this process."""
    try:
        return read_network_file(path, 'network')
    except InputError:
        return None


def _is_file(path: str) -> bool:
    try:
        return osp.isfile(path)
    except ValueError:  # no path
        return False


def _state(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


@cache
def _digest(path: str, size: int, changed: int) -> str:
    """The sha256 of a file, read again only if it has changed."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()
