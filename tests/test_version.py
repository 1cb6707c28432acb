"""What `import mtkdrl_mm` accepts and refuses, and how versions are read."""

import importlib
import subprocess
import sys

import mmcv
import mmengine
import mmpretrain
import pytest

import mtkdrl_mm
from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.version import parse_version_info

MODULES = {'mmengine': mmengine, 'mmcv': mmcv, 'mmpretrain': mmpretrain}


def import_with(monkeypatch, package, version):
    monkeypatch.setattr(MODULES[package], '__version__', version)
    importlib.reload(mtkdrl_mm)


@pytest.mark.parametrize(
    ('package', 'version'),
    [
        ('mmengine', '0.10.0'),
        ('mmengine', '0.10.7'),
        ('mmengine', '0.11.0rc1'),
        ('mmcv', '2.0.0'),
        ('mmcv', '2.1.0'),
        ('mmcv', '2.1.0+cu121'),
        ('mmcv', '2.1.0rc1'),
        ('mmcv', '2.1.99'),
        ('mmpretrain', '1.2.0'),
        ('mmpretrain', '1.2.1'),
    ],
)
def test_version_in_range_is_accepted(monkeypatch, package, version):
    import_with(monkeypatch, package, version)


@pytest.mark.parametrize(
    ('package', 'version', 'allowed'),
    [
        ('mmengine', '0.9.1', '>=0.10.0,<1.0.0'),
        ('mmengine', '0.10.0rc1', '>=0.10.0,<1.0.0'),
        ('mmengine', '1.0.0', '>=0.10.0,<1.0.0'),
        ('mmcv', '1.7.2', '>=2.0.0,<2.2.0'),
        ('mmcv', '2.0.0rc4', '>=2.0.0,<2.2.0'),
        ('mmcv', '2.2.0', '>=2.0.0,<2.2.0'),
        ('mmcv', '2.2.0rc1', '>=2.0.0,<2.2.0'),
        ('mmcv', '2.10.0', '>=2.0.0,<2.2.0'),
        ('mmpretrain', '1.1.1', '>=1.2.0,<1.3'),
        ('mmpretrain', '1.3.0', '>=1.2.0,<1.3'),
    ],
)
def test_version_out_of_range_is_refused(monkeypatch, package, version, allowed):
    with pytest.raises(ImportError) as error:
        import_with(monkeypatch, package, version)
    message = str(error.value)
    assert f'{package} {version} is installed' in message
    assert f"pip install '{package}{allowed}'" in message


def test_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmcv', None)
    with pytest.raises(ImportError, match=r"mmcv is not installed.*pip install 'mmcv>=2\.0\.0,<2"):
        importlib.reload(mtkdrl_mm)


def test_error_inside_a_package_is_not_called_missing(monkeypatch):
    # e.g. mmpretrain there, but a module that it imports is not.
    def import_module(name):
        raise ModuleNotFoundError("No module named 'modelindex'", name='modelindex')

    monkeypatch.setattr(importlib, 'import_module', import_module)
    with pytest.raises(ModuleNotFoundError, match='modelindex'):
        mtkdrl_mm._require('mmpretrain', '>=1.2.0')


@pytest.mark.parametrize(
    ('text', 'parts'),
    [
        ('0.1.0', (0, 1, 0)),
        ('1.3', (1, 3)),
        ('2.0.0rc1', (2, 0, 0, 'rc1')),
        ('2.0.0.dev3', (2, 0, 0, 'dev3')),
        ('2.1.0+cu121', (2, 1, 0)),
    ],
)
def test_parse_version_info(text, parts):
    assert parse_version_info(text) == parts


def test_parse_version_info_rejects_nonsense():
    with pytest.raises(ValueError, match='banana'):
        parse_version_info('banana')


def test_package_says_its_version():
    assert mtkdrl_mm.version_info == parse_version_info(mtkdrl_mm.__version__)
    assert mtkdrl_mm.version_info >= (0, 1, 0)


def test_the_main_classes_are_there_without_a_slow_import():
    import_of_models = "import mtkdrl_mm, sys; assert 'mtkdrl_mm.models' not in sys.modules"
    subprocess.run([sys.executable, '-c', import_of_models], check=True)
    assert mtkdrl_mm.MultiTeacherDistiller is MultiTeacherDistiller
    assert mtkdrl_mm.DistilledBackbone.__name__ == 'DistilledBackbone'
    with pytest.raises(AttributeError, match="'mtkdrl_mm' has no attribute 'Distiller'"):
        mtkdrl_mm.Distiller  # noqa: B018
