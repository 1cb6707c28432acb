# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The OpenMMLab packages: their names on PyPI, and the versions that fit.

OpenMMLab's own releases ended in 2024. The maintained forks have the same import names and other
names on PyPI (``onedl-...``). Where this package has to tell the two apart, it does so here.
"""

import importlib
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class Distribution:
    """A name under which pip installs a package.

    Attributes:
        name (str): The name on PyPI.
        versions (str): The versions that fit, for example ``'>=1.0,<2.0'``.
        installed (str | None): The version that is installed. Defaults to None.
    """

    name: str
    versions: str
    installed: str | None = None

    @property
    def is_fork(self) -> bool:
        """Whether this is a maintained fork."""
        return self.name.startswith('onedl-')

    @property
    def command(self) -> str:
        """The command that installs it."""
        if self.name == 'onedl-mmcv':
            # In pip's isolated build there is no torch, and without torch there are no operators.
            return f"pip install --no-build-isolation '{self.name}{self.versions}'"
        return f"pip install '{self.name}{self.versions}'"

    def __str__(self) -> str:
        return f'{self.name} {self.installed}' if self.installed else self.name


#: The distributions of each package, by import name.
PACKAGES = {
    'mmengine': (
        Distribution('mmengine', '>=0.10.0,<1.0.0'),
        Distribution('onedl-mmengine', '>=0.10.8,<1.0.0'),
    ),
    'mmcv': (
        Distribution('mmcv', '>=2.0.0,<2.2.0'),
        Distribution('mmcv-lite', '>=2.0.0,<2.2.0'),
        Distribution('onedl-mmcv', '>=2.3.0,<2.4.0'),
    ),
    'mmpretrain': (
        Distribution('mmpretrain', '>=1.2.0,<1.3'),
        Distribution('onedl-mmpretrain', '>=1.3.0,<1.4'),
    ),
    'mmdet': (
        Distribution('mmdet', '>=3.2.0,<3.4.0'),
        Distribution('onedl-mmdetection', '>=3.5.0,<3.6.0'),
    ),
    'mmseg': (
        Distribution('mmsegmentation', '>=1.2.0,<1.3.0'),
        Distribution('onedl-mmsegmentation', '>=1.4.0,<1.5.0'),
    ),
}
# mmpretrain comes last: it imports the other two. Detection and segmentation are optional.
_REQUIRED = ('mmengine', 'mmcv', 'mmpretrain')


@cache
def installed_version(name: str) -> str | None:
    """The version of a distribution, which is looked up once; None if it is not installed.

    Args:
        name (str): The name on PyPI.
    """
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def installed_distributions(package: str) -> list[Distribution]:
    """The installed distributions of a package; empty for a folder on ``PYTHONPATH``.

    Args:
        package (str): The import name.
    """
    known = [replace(one, installed=installed_version(one.name)) for one in PACKAGES[package]]
    return [one for one in known if one.installed is not None]


def check_packages() -> None:
    """Check the installed packages.

    Otherwise a mismatch appears much later, as an unclear error inside of one of them.

    Raises:
        ImportError: If a package is missing, has an unsupported version, is installed from two
            distributions, which overwrite each other's files, or if OpenMMLab's packages are
            mixed with forks.
    """
    installed = _all_installed()
    for package, found in installed.items():
        if len(found) > 1:
            names = ' '.join(one.name for one in found)
            raise ImportError(
                f'{package} is installed {"twice" if len(found) == 2 else "several times"}, by '
                f"{' and '.join(map(str, found))}, which overwrite each other's files. Remove "
                f'them (pip uninstall {names}), then install one of them again.'
            )
    base = next((one for found in installed.values() for one in found), None)
    for package, found in installed.items():
        fitting = fitting_distribution(package)
        if base is not None and found and found[0].is_fork != base.is_fork:
            raise ImportError(
                f'{base} and {found[0]} do not fit together: one is from OpenMMLab, the other is '
                f'a maintained fork. To continue with {base.name}: pip uninstall '
                f'{found[0].name}; {fitting.command}'
            )
        if package in _REQUIRED:
            _require(package, next(iter(found), fitting))


def fitting_distribution(package: str) -> Distribution:
    """The distribution of a package that fits the others that are installed.

    Args:
        package (str): The import name.
    """
    others = [one for found in _all_installed().values() for one in found]
    forks = bool(others) and others[0].is_fork
    return next(one for one in PACKAGES[package] if one.is_fork == forks)


def command_for_operators() -> str:
    """The command that replaces an mmcv without compiled operators by one that has them."""
    wanted = fitting_distribution('mmcv')
    if wanted.is_fork:
        # pip would keep an installed mmcv of the same version, and a wheel that it once built.
        options = f'--force-reinstall --no-deps --no-cache-dir --no-binary {wanted.name}'
        command = wanted.command.replace('install', f'install {options}', 1)
        return f'{command} (with torch 2.14 or later: see docs/getting_started.md)'
    names = [one.name for one in installed_distributions('mmcv')]
    removal = f'pip uninstall {" ".join(names)}; ' if names else ''
    return f"{removal}mim install '{wanted.name}{wanted.versions}'"


def _all_installed() -> dict[str, list[Distribution]]:
    return {package: installed_distributions(package) for package in PACKAGES}


def _require(package: str, distribution: Distribution) -> None:
    """Raise an error if a package has an unsupported version.

    Args:
        package (str): The import name.
        distribution (Distribution): The one that is, or should be, installed.

    Raises:
        ImportError: If the package is missing, or its version is out of range.
    """
    from .version import __version__

    allowed = distribution.versions
    advice = f'mtkdrl_mm {__version__} needs {distribution.name}{allowed}: {distribution.command}'
    if distribution.name == 'mmcv':
        advice += f" (or 'mmcv-lite{allowed}', without compiled operators)"
    try:
        installed = importlib.import_module(package).__version__
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(f'{package} is not installed. {advice}') from None
    # Specifiers, unlike a comparison of versions, keep 2.2.0rc1 out of '<2.2.0', as pip does.
    if not SpecifierSet(allowed).contains(installed, prereleases=True):
        raise ImportError(f'{package} {installed} is installed, which does not fit. {advice}')


def register_configs() -> None:
    """Let mmengine find configs of a fork (``_base_ = 'mmseg::...'``) and of this package.

    mmengine looks for an installed distribution with OpenMMLab's name. Under the import name it
    finds any, and for a package that it finds, ``mmengine.hub`` does not start pip.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    # mmengine's table has the packages with configs, and means more by an entry than a name.
    for package in PACKAGES.keys() & MODULE2PACKAGE.keys():
        if any(one.is_fork for one in installed_distributions(package)):
            MODULE2PACKAGE[package] = package
    MODULE2PACKAGE.setdefault('mtkdrl_mm', 'mtkdrl_mm')
