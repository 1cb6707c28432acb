# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The files on which a config depends."""

import hashlib
import os
import os.path as osp
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from mmengine.config import Config

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.package_configs import read_network_file


def named_files(config: Config) -> dict[str, str]:
    """Find the files that a config names, at whatever key.

    Those are checkpoints, lists of labels, class maps, and the configs behind
    ``cfg_path`` with what they name in turn. Files in a ``data_root`` may be
    named relative to it. Folders, such as those of images, are left out.

    Args:
        config (Config): The config.

    Returns:
        dict[str, str]: The sha256 of every file's contents, or of a config as it
        is resolved, by its path in the config, sorted.
    """
    return dict(sorted(_walk(config.to_dict(), '')))


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
    config = _read(path, frozenset(os.environ.items()))
    if config is not None:
        yield path, hashlib.sha256(repr(config.to_dict()).encode()).hexdigest()
        yield from _walk(config.to_dict(), '')


@cache
def _read(path: str, environment: frozenset) -> Config | None:
    """A config; None if it cannot be read, which the training will say."""
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
