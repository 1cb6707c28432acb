# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The page that the tool writes while trainings go on."""

import importlib.util
from pathlib import Path

import pytest

from mtkdrl_mm.comparison import Plan, Row

PATH = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'compare_methods.py'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('compare_methods', PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_page_that_cannot_be_written_stops_no_training(tool, tmp_path, capsys):
    plan = Plan(rows=[Row('aver', 'aver.py')], seeds=[0])
    tool.try_comparison_page(str(tmp_path), plan)
    page = tmp_path / 'report.html'
    assert 'Not started: aver: seed 0' in page.read_text() and capsys.readouterr().out == ''
    page.unlink()
    page.mkdir()
    tool.try_comparison_page(str(tmp_path), plan)
    assert capsys.readouterr().out.startswith(f'  {page} is not up to date: IsADirectoryError(')
    with pytest.raises(IsADirectoryError):
        tool.write_comparison_page(str(tmp_path), plan)


def test_the_page_is_about_what_this_command_compares(tool, tmp_path):
    """Another command has written its plan into the work dir meanwhile."""
    plan = Plan(rows=[Row('aver', 'aver.py')], seeds=[0], metric='mIoU')
    Plan(rows=[Row('other', 'other.py')], seeds=[1]).write(str(tmp_path))
    out = tmp_path / 'out'
    out.mkdir()
    tool.write_comparison_page(str(tmp_path), plan)
    tool.write_comparison_page(str(tmp_path), plan, str(out))
    for folder in (tmp_path, out):
        page = (folder / 'report.html').read_text()
        assert 'Not started: aver: seed 0' in page and 'mIoU' in page and 'other' not in page
