# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The page that the tool writes while trainings go on."""

import importlib.util
from pathlib import Path

import pytest

from mtkdrl_mm.comparison import Plan, Row
from mtkdrl_mm.utils import InputError

PATH = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'compare_methods.py'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('compare_methods', PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_reference_that_is_named_must_be_there(tool):
    """Before anything is trained; the default one may be absent."""
    rows = [Row('aver', 'aver.py'), Row('mtkdrl', 'mtkdrl.py')]
    assert tool.choose_reference('mtkdrl', rows) == 'mtkdrl'
    assert tool.choose_reference(None, rows[1:]) == 'aver'
    message = 'no row is named "avr". Did you mean "aver"\\? Known: "aver", "mtkdrl"'
    with pytest.raises(InputError, match=message):
        tool.choose_reference('avr', rows)


def test_a_page_that_cannot_be_written_stops_no_training(tool, tmp_path, capsys):
    Plan(rows=[Row('aver', 'aver.py')], seeds=[0]).write(str(tmp_path))
    tool.try_comparison_page(str(tmp_path))
    page = tmp_path / 'report.html'
    assert 'Not started: aver: seed 0' in page.read_text() and capsys.readouterr().out == ''
    page.unlink()
    page.mkdir()
    tool.try_comparison_page(str(tmp_path))
    assert capsys.readouterr().out.startswith(f'  {page} is not up to date: IsADirectoryError(')
    with pytest.raises(IsADirectoryError):
        tool.write_comparison_page(str(tmp_path))
