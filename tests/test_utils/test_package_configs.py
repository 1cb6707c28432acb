# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Configs of installed packages are found, and nothing is installed."""

import re
import subprocess
import sys

import pytest
from mmengine.config import Config
from mmengine.hub import get_config

from mtkdrl_mm.models.build_classifier import read_network_config
from mtkdrl_mm.openmmlab import fitting_distribution
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.package_configs import find_package_config, read_network_file

NAME = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'


@pytest.fixture(autouse=True)
def no_commands(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f'started {args}')

    for name in ('Popen', 'check_call', 'run'):
        monkeypatch.setattr(subprocess, name, refuse)


def test_the_same_config_as_mmengines():
    model, preprocessor = read_network_config(dict(cfg_path=NAME), 'student')
    expected = get_config(NAME)
    assert model == expected.model and preprocessor == expected.data_preprocessor


@pytest.mark.parametrize(
    'base', ['mmdet::_base_/models/retinanet_r50_fpn.py', 'mmseg::_base_/models/pspnet_r50-d8.py']
)
def test_bases_of_configs_are_found_too(tmp_path, base):
    """mmengine reads these, and looks for distributions with OpenMMLab's names."""
    pytest.importorskip(base.partition('::')[0])
    (tmp_path / 'mine.py').write_text(f'_base_ = {base!r}')
    assert Config.fromfile(tmp_path / 'mine.py').model.backbone.depth == 50


def test_base_configs_have_no_index():
    assert find_package_config('mmpretrain::_base_/models/resnet18.py', 'x').endswith(
        'mmpretrain/.mim/configs/_base_/models/resnet18.py'
    )


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        (
            'mmpretrain::resnet/resnet18_8xb32_in1.py',
            r'no such file\. Did you mean "mmpretrain::resnet/resnet18_8xb32_in1k\.py',
        ),
        ('mmpretrain::../../__init__.py', r'mmpretrain has no such file'),
        ('mmpretrain::/etc/passwd', r'mmpretrain has no such file'),
        ('mmpretrain::', r'mmpretrain has no such file'),
        ('mmfoo::a/b.py', r'but not of "mmfoo::"'),
    ],
)
def test_what_is_not_there(name, message):
    with pytest.raises(InputError, match=r'^The student\'s `cfg_path` ".*" cannot be read: ') as e:
        read_network_config(dict(cfg_path=name), 'student')
    assert re.search(message, str(e.value))
    assert name in str(e.value)


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmseg', None)
    monkeypatch.setattr('mtkdrl_mm.utils.package_configs.find_spec', lambda name: None)
    command = fitting_distribution('mmseg').command
    assert re.match(r"pip install '(onedl-)?mmsegmentation>=1", command)
    message = re.escape(f'mmseg is not installed ({command}).')
    with pytest.raises(InputError, match=message):
        find_package_config('mmseg::unet/a.py', 'student')


def test_a_source_tree_has_its_configs_beside_it(tmp_path, monkeypatch):
    (tmp_path / 'mmdet').mkdir()
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs' / 'a.py').write_text('model = dict()')
    from types import SimpleNamespace

    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path / 'mmdet')])
    monkeypatch.setattr('mtkdrl_mm.utils.package_configs.find_spec', lambda name: spec)
    assert find_package_config('mmdet::a.py', 'x') == str(tmp_path / 'configs' / 'a.py')


@pytest.mark.parametrize(
    ('text', 'reason'),
    [('model = dict(', "'\\(' was never closed"), ("_base_ = 'gone.py'", 'gone.py')],
)
def test_a_file_that_cannot_be_read(tmp_path, text, reason):
    path = tmp_path / 'network.py'
    path.write_text(text)
    message = rf'^The student.s `cfg_path` .*network\.py. cannot be read: .*{reason}'
    with pytest.raises(InputError, match=message):
        read_network_file(str(path), 'student')
    path.write_text('model = dict(depth=18)')
    assert read_network_file(str(path), 'student').model.depth == 18
