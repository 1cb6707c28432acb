# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Lookup and reading of network configs such as ``mmpretrain::resnet/resnet18_8xb32_in1k.py``.

mmengine's ``get_config`` runs ``pip install`` for missing packages, and does not find the
maintained forks, which have other names on PyPI. Here a package is found by its import name,
and nothing is installed.
"""

import difflib
import os.path as osp
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

from mtkdrl_mm.openmmlab import fitting_distribution

from .errors import InputError, config_failure

# Packages with configs of networks.
_WITH_CONFIGS = ('mtkdrl_mm', 'mmpretrain', 'mmdet', 'mmseg')


def read_network_file(path: str, role: str) -> Config:
    """Read a config file of a network.

    Args:
        path (str): A file, or ``package::path``, see :func:`find_package_config`.
        role (str): "student" or the teacher's name, for messages.

    Returns:
        Config: Its contents.

    Raises:
        InputError: If it cannot be found or read.
    """
    if not isinstance(path, str):
        raise InputError(f"The {role}'s `cfg_path` must be the path of a config, but is {path!r}.")
    try:
        return Config.fromfile(find_package_config(path, role) if '::' in path else path)
    except InputError:
        raise
    except Exception as error:  # whatever its code raises
        raise InputError(
            f'The {role}\'s `cfg_path` "{path}" cannot be read: {config_failure(error)}'
        ) from error


def find_package_config(name: str, role: str) -> str:
    """Find a config of an installed package.

    Args:
        name (str): ``package::path``, the path relative to the package's
            ``configs`` folder.
        role (str): "student" or the teacher's name, for messages.

    Returns:
        str: Path of the file.

    Raises:
        InputError: If the package is unknown or not installed, or has no such
            config.
    """
    package, _, path = name.partition('::')
    start = f'The {role}\'s `cfg_path` "{name}" cannot be read:'
    if package not in _WITH_CONFIGS:
        known = ', '.join(f'"{p}::"' for p in _WITH_CONFIGS)
        raise InputError(f'{start} there are configs of {known}, but not of "{package}::".')
    folder = _configs_folder(package)
    if folder is None and package == 'mtkdrl_mm':
        raise InputError(f'{start} this installation of mtkdrl_mm lacks its configs: reinstall it.')
    if folder is None:
        command = fitting_distribution(package).command
        raise InputError(f'{start} {package} is not installed ({command}).')
    file = osp.normpath(osp.join(folder, path))
    if not file.startswith(osp.join(folder, '')) or not osp.isfile(file):
        raise InputError(f'{start} {package} has no such file.{_near(path, folder, package)}')
    return file


def _configs_folder(package: str) -> str | None:
    """The folder of a package's configs; beside the package in a source tree."""
    spec = find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        for folder in (osp.join(location, '.mim'), osp.dirname(location)):
            if osp.isdir(osp.join(folder, 'configs')):
                return osp.abspath(osp.join(folder, 'configs'))
    return None


def _near(path: str, folder: str, package: str) -> str:
    known = {p.relative_to(folder).as_posix() for p in Path(folder).rglob('*.py')}
    close = difflib.get_close_matches(path, sorted(known), n=3, cutoff=0.5)
    if not close:
        return ''
    return ' Did you mean ' + ' or '.join(f'"{package}::{p}"' for p in close) + '?'
