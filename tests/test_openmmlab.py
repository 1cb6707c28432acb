# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Which packages `import mtkdrl_mm` accepts, and what it says of others."""

import importlib
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import mmcv
import mmengine
import mmpretrain
import pytest
from mmengine.config.utils import MODULE2PACKAGE
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import mtkdrl_mm
from mtkdrl_mm import openmmlab

FOLDER = Path(__file__).parents[1] / 'requirements'
MODULES = {'mmengine': mmengine, 'mmcv': mmcv, 'mmpretrain': mmpretrain}
OPENMMLAB = {
    'mmengine': '0.10.7',
    'mmcv': '2.1.0',
    'mmpretrain': '1.2.0',
    'mmdet': '3.3.0',
    'mmsegmentation': '1.2.2',
}
FORKS = {
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmpretrain': '1.3.6',
    'onedl-mmdetection': '3.5.1',
    'onedl-mmsegmentation': '1.4.2',
}


@pytest.fixture
def install(monkeypatch):
    """Function that makes some distributions, and no others, look installed."""

    def pretend(distributions):
        monkeypatch.setattr(openmmlab, 'installed_version', distributions.get)
        for package, module in MODULES.items():
            for one in openmmlab.installed_distributions(package):
                monkeypatch.setattr(module, '__version__', one.installed)

    return pretend


def refusal():
    with pytest.raises(ImportError) as error:
        openmmlab.check_packages()
    return str(error.value)


def test_versions_are_looked_up_once(monkeypatch):
    """The import needs them several times; every look-up reads the folders of ``sys.path``."""
    counts = Counter()

    def version(name):
        counts[name] += 1
        if name == 'mmcv-lite':
            raise PackageNotFoundError(name)
        return '2.1.0'

    monkeypatch.setattr(openmmlab, 'version', version)
    openmmlab.installed_version.cache_clear()
    try:
        for _ in range(2):
            assert [openmmlab.installed_version(name) for name in ('mmcv', 'mmcv-lite')] == [
                '2.1.0',
                None,
            ]
        assert counts == {'mmcv': 1, 'mmcv-lite': 1}
    finally:
        openmmlab.installed_version.cache_clear()


def test_this_environment_is_accepted():
    openmmlab.check_packages()
    importlib.reload(mtkdrl_mm)


@pytest.mark.parametrize('family', [OPENMMLAB, FORKS], ids=['OpenMMLab', 'forks'])
def test_each_family_is_accepted_whole_and_without_what_is_optional(install, family):
    install(family)
    openmmlab.check_packages()
    install({name: family[name] for name in list(family)[:3]})
    openmmlab.check_packages()


@pytest.mark.parametrize(
    ('name', 'version'),
    [
        ('mmengine', '0.10.0'),
        ('mmengine', '0.11.0rc1'),
        ('mmcv', '2.0.0'),
        ('mmcv', '2.1.0+cu121'),
        ('mmcv', '2.1.0rc1'),
        ('mmcv', '2.1.99'),
        ('mmpretrain', '1.2.1'),
        ('onedl-mmcv', '2.3.0'),
        ('onedl-mmcv', '2.3.6+cu130'),
        ('onedl-mmpretrain', '1.3.0'),
    ],
)
def test_version_in_range_is_accepted(install, name, version):
    family = FORKS if name in FORKS else OPENMMLAB
    install({**family, name: version})
    openmmlab.check_packages()


@pytest.mark.parametrize(
    ('name', 'version', 'allowed'),
    [
        ('mmengine', '0.9.1', '>=0.10.0,<1.0.0'),
        ('mmengine', '0.10.0rc1', '>=0.10.0,<1.0.0'),
        ('mmengine', '1.0.0', '>=0.10.0,<1.0.0'),
        ('mmcv', '1.7.2', '>=2.0.0,<2.2.0'),
        ('mmcv', '2.0.0rc4', '>=2.0.0,<2.2.0'),
        ('mmcv', '2.2.0', '>=2.0.0,<2.2.0'),
        ('mmcv', '2.2.0rc1', '>=2.0.0,<2.2.0'),
        ('mmcv', '2.3.6', '>=2.0.0,<2.2.0'),
        ('mmcv', '2.10.0', '>=2.0.0,<2.2.0'),
        ('mmpretrain', '1.1.1', '>=1.2.0,<1.3'),
        ('mmpretrain', '1.3.0', '>=1.2.0,<1.3'),
        ('onedl-mmengine', '0.10.7', '>=0.10.8,<1.0.0'),
        ('onedl-mmcv', '2.2.0', '>=2.3.0,<2.4.0'),
        ('onedl-mmcv', '2.4.0rc1', '>=2.3.0,<2.4.0'),
        ('onedl-mmpretrain', '1.4.0', '>=1.3.0,<1.4'),
    ],
)
def test_version_out_of_range_is_refused(install, name, version, allowed):
    family = FORKS if name in FORKS else OPENMMLAB
    install({**family, name: version})
    message = refusal()
    package = name.removeprefix('onedl-')
    assert message.startswith(f'{package} {version} is installed, which does not fit. mtkdrl_mm ')
    assert f"needs {name}{allowed}: pip install '{name}{allowed}'" in message.replace(
        ' --no-build-isolation', ''
    )


@pytest.mark.parametrize(
    ('ranges', 'pins', 'family'),
    [
        ('mminstall.txt', 'constraints.txt', OPENMMLAB),
        ('mminstall_onedl.txt', 'constraints_current.txt', FORKS),
    ],
)
def test_requirements_agree_with_what_is_accepted(ranges, pins, family):
    def requirements(file):
        lines = [line.split('#')[0].strip() for line in (FOLDER / file).read_text().splitlines()]
        found = [Requirement(line) for line in lines if line]
        return {one.name: one.specifier for one in found}

    accepted = {
        one.name: SpecifierSet(one.versions)
        for distributions in openmmlab.PACKAGES.values()
        for one in distributions
        if one.name in family
    }
    assert requirements(ranges) == accepted
    pinned = requirements(pins)
    for name, versions in accepted.items():
        assert str(pinned[name]) == f'=={family[name]}' and family[name] in versions


def test_lite_mmcv_is_enough(install):
    install({**{k: v for k, v in OPENMMLAB.items() if k != 'mmcv'}, 'mmcv-lite': '2.1.0'})
    openmmlab.check_packages()
    install({**{k: v for k, v in OPENMMLAB.items() if k != 'mmcv'}, 'mmcv-lite': '2.2.0'})
    assert "pip install 'mmcv-lite>=2.0.0,<2.2.0'" in refusal()


def test_two_distributions_of_a_package(install):
    install({**OPENMMLAB, 'onedl-mmcv': '2.3.6'})
    assert refusal() == (
        "mmcv is installed twice, by mmcv 2.1.0 and onedl-mmcv 2.3.6, which overwrite each other's "
        'files. Remove them (pip uninstall mmcv onedl-mmcv), then install one of them again.'
    )
    install({**OPENMMLAB, 'mmcv-lite': '2.1.0'})
    assert 'by mmcv 2.1.0 and mmcv-lite 2.1.0,' in refusal()
    install({**FORKS, 'mmdet': '3.3.0'})
    assert 'mmdet is installed twice, by mmdet 3.3.0 and onedl-mmdetection 3.5.1,' in refusal()


def test_packages_of_both_families(install):
    without = {k: v for k, v in FORKS.items() if k != 'onedl-mmsegmentation'}
    install({**without, 'mmsegmentation': '1.2.2'})
    assert refusal() == (
        'onedl-mmengine 0.10.12 and mmsegmentation 1.2.2 do not fit together: one is from '
        'OpenMMLab, the other is a maintained fork. To continue with onedl-mmengine: pip uninstall '
        "mmsegmentation; pip install 'onedl-mmsegmentation>=1.4.0,<1.5.0'"
    )
    without = {k: v for k, v in OPENMMLAB.items() if k != 'mmcv'}
    install({**without, 'onedl-mmcv': '2.3.6'})
    assert "pip uninstall onedl-mmcv; pip install 'mmcv>=2.0.0,<2.2.0'" in refusal()


@pytest.mark.parametrize(
    ('family', 'command'),
    [
        (OPENMMLAB, "pip install 'mmcv>=2.0.0,<2.2.0' (or 'mmcv-lite>=2.0.0,<2.2.0', without"),
        # An isolated build has no operators.
        (FORKS, "pip install --no-build-isolation 'onedl-mmcv>=2.3.0,<2.4.0'"),
    ],
    ids=['OpenMMLab', 'forks'],
)
def test_missing_package_is_named_with_the_command_that_fits(monkeypatch, install, family, command):
    install({k: v for k, v in family.items() if not k.endswith('mmcv')})
    monkeypatch.setitem(sys.modules, 'mmcv', None)
    message = refusal()
    assert message.startswith('mmcv is not installed. mtkdrl_mm ') and command in message


def test_package_on_the_path_is_checked_as_openmmlabs(install, monkeypatch):
    install({})
    for name, version in (('mmengine', '0.10.7'), ('mmcv', '2.1.0'), ('mmpretrain', '1.2.0')):
        monkeypatch.setattr(MODULES[name], '__version__', version)
    openmmlab.check_packages()
    monkeypatch.setattr(mmcv, '__version__', '2.3.6')
    assert 'mmcv 2.3.6 is installed, which does not fit' in refusal()


def test_error_inside_a_package_is_not_called_missing(monkeypatch, install):
    # e.g. mmpretrain there, but a module that it imports is not.
    def import_module(name):
        raise ModuleNotFoundError("No module named 'modelindex'", name='modelindex')

    install(OPENMMLAB)
    monkeypatch.setattr(importlib, 'import_module', import_module)
    with pytest.raises(ModuleNotFoundError, match='modelindex'):
        openmmlab.check_packages()


def test_mmengine_finds_configs_of_forks_by_their_import_names(monkeypatch, install):
    before = {'mmseg': 'mmsegmentation', 'mmdet': 'mmdet', 'mmpose': 'mmpose'}
    for family, name in ((OPENMMLAB, 'mmsegmentation'), (FORKS, 'mmseg')):
        install(family)
        for package in list(MODULE2PACKAGE):
            monkeypatch.delitem(MODULE2PACKAGE, package)
        MODULE2PACKAGE.update(before)
        openmmlab.register_configs()
        # No other is added: the registries take a package with an entry for a toolbox.
        assert MODULE2PACKAGE == {**before, 'mmseg': name, 'mtkdrl_mm': 'mtkdrl_mm'}
        monkeypatch.undo()


@pytest.mark.parametrize(
    ('installed', 'command'),
    [
        (
            FORKS,
            'pip install --force-reinstall --no-deps --no-cache-dir --no-binary onedl-mmcv '
            "--no-build-isolation 'onedl-mmcv>=2.3.0,<2.4.0' (with torch 2.14 or later: see ",
        ),
        (
            {'mmengine': '0.10.7', 'mmcv-lite': '2.1.0'},
            "pip uninstall mmcv-lite; mim install 'mmcv>=2.0.0,<2.2.0'",
        ),
    ],
    ids=['forks', 'OpenMMLab'],
)
def test_command_for_operators(install, installed, command):
    install(installed)
    assert openmmlab.command_for_operators().startswith(command)
