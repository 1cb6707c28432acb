# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Packages that only some features need."""

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.optional_packages import PACKAGES, import_optional

REQUIREMENTS = Path(__file__).parents[2] / 'requirements' / 'optional.txt'


def refusal(module):
    with pytest.raises(InputError) as error:
        import_optional(module, 'A feature')
    return str(error.value)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Function that writes a package that looks like submitit."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition('.')[0] == 'submitit']:
        monkeypatch.delitem(sys.modules, name)

    def write(code, **modules):
        (tmp_path / 'submitit').mkdir()
        for name, content in dict(__init__=code, **modules).items():
            (tmp_path / 'submitit' / f'{name}.py').write_text(content)

    yield write
    for name in [name for name in sys.modules if name.partition('.')[0] == 'submitit']:
        del sys.modules[name]


def test_a_package_and_a_module_of_it(fake):
    fake('number = 1', helpers='number = 2')
    assert import_optional('submitit', 'A feature').number == 1
    assert import_optional('submitit.helpers', 'A feature').number == 2


@pytest.mark.parametrize('module', ['submitit', 'submitit.helpers'])
def test_a_package_that_is_not_installed(monkeypatch, module):
    monkeypatch.setitem(sys.modules, 'submitit', None)
    assert refusal(module) == (
        "A feature needs submitit, which is not installed: pip install 'submitit>=1.5'"
    )


def test_an_old_or_damaged_package_is_not_called_absent(fake):
    fake('', helpers='import no_such_package')
    assert refusal('submitit.other') == (
        "A feature needs submitit, which cannot be imported (No module named 'submitit.other'): "
        "pip install 'submitit>=1.5'"
    )
    assert "cannot be imported (No module named 'no_such_package')" in refusal('submitit.helpers')


def test_versions_are_those_of_the_requirements():
    lines = [line.split('#')[0].strip() for line in REQUIREMENTS.read_text().splitlines()]
    listed = {r.name: str(r.specifier) for r in map(Requirement, filter(None, lines))}
    # mmengine imports tensorboard; pycocotools is a requirement of mmdet.
    del listed['tensorboard']
    listed['pycocotools'] = ''
    assert {one.name: one.versions for one in PACKAGES.values()} == listed
