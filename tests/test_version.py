"""How versions are read, and what the package has at its top."""

import subprocess
import sys

import pytest

import mtkdrl_mm
from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.version import parse_version_info


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
