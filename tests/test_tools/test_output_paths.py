# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Tools refuse a place where they cannot write before they work."""

import importlib.util
import sys
from pathlib import Path

import pytest

from mtkdrl_mm.utils import InputError

TOOLS = Path(__file__).parents[2] / 'tools'


def load(name):
    spec = importlib.util.spec_from_file_location(name.replace('/', '_'), TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# There is no such config, checkpoint or work dir: every later step would fail for that.
@pytest.mark.parametrize(
    ('name', 'arguments'),
    [
        ('test', ['no.py', 'no.pth', '--out', 'folder']),
        ('model_converters/export_student', ['no.pth', 'folder.pth']),
        ('analysis_tools/benchmark_store', ['no', '--out', 'folder']),
        ('analysis_tools/check_teachers', ['no.py', '--out', 'folder.md']),
        ('analysis_tools/compute_class_centers', ['no.py', 'folder']),
        ('analysis_tools/report', ['no', '--out', 'folder']),
        ('analysis_tools/report', ['no', '--out', 'new/']),
        ('analysis_tools/teacher_usefulness', ['no.py', 'no.pth', '--out', 'folder']),
    ],
)
def test_a_folder_in_place_of_a_file(name, arguments, tmp_path, monkeypatch):
    for folder in ('folder', 'folder.md', 'folder.pth'):
        (tmp_path / folder).mkdir()
    tool = load(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [name, *arguments])
    with pytest.raises(InputError, match=r'takes a file, but ".*" is a folder: add a name'):
        tool.main()


@pytest.mark.parametrize(
    ('name', 'arguments'),
    [
        ('demo', ['--work-dir', '{file}']),
        ('analysis_tools/benchmark_training', ['--out', '{file}/a']),
        ('analysis_tools/compare_methods', ['no.py', '--out', '{file}']),
        ('analysis_tools/compare_methods', ['no.py', '--work-dir', '{file}']),
        ('analysis_tools/compare_pools', ['--out', '{file}']),
        ('analysis_tools/compare_pools', ['--work-dir', '{file}']),
        ('analysis_tools/teacher_usefulness', ['no.py', 'no.pth', '--out', '{file}/a.csv']),
    ],
)
def test_a_file_in_place_of_a_folder(name, arguments, tmp_path, monkeypatch):
    file = tmp_path / 'file'
    file.touch()
    tool = load(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [name, *(one.format(file=file) for one in arguments)])
    with pytest.raises(InputError, match=r'^--(out|work-dir): ".*" cannot be a folder'):
        tool.main()


def test_usefulness_tells_checkpoints_of_one_name_apart(tmp_path, monkeypatch, capsys):
    tool = load('analysis_tools/teacher_usefulness')
    counts = dict(counts=tool.torch.ones(2))
    found = {tool.EQUAL: type('Found', (), counts)()}
    monkeypatch.setattr(tool, 'load_config', lambda args: None)
    monkeypatch.setattr(tool, 'check_data', lambda *args: None)
    monkeypatch.setattr(tool, 'measure', lambda *args: found)
    monkeypatch.setattr(tool, 'describe', lambda found: 'table')
    heads = {('a/epoch_2.pth', 'b/epoch_2.pth'): 'a/epoch_2.pth', ('a/1.pth', 'b/2.pth'): '1.pth'}
    for checkpoints, head in heads.items():
        monkeypatch.setattr(sys, 'argv', ['teacher_usefulness', 'no.py', *checkpoints])
        tool.main()
        assert f'\n{head}\n' in capsys.readouterr().out
