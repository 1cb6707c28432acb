# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the tool writes: the page while trainings go on, and the command and the devices."""

import importlib.util
from pathlib import Path

import pytest

from mtkdrl_mm.comparison import ComparisonSettings, Plan, Row, Run, describe

PATH = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'compare_methods.py'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('compare_methods', PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_a_report_names_the_devices_of_the_trainings_and_the_variables(tool, tmp_path, monkeypatch):
    config = tmp_path / 'student_aver.py'
    config.write_text("pool = '{{$POOL:weak}}'")
    monkeypatch.setenv('POOL', 'two words')
    description = describe(Row('aver', str(config)), ComparisonSettings('', ''))
    for seed in (0, 1):
        folder = tmp_path / 'runs' / 'aver' / f'seed_{seed}'
        folder.mkdir(parents=True)
        run = Run(
            method='aver',
            seed=seed,
            metric=60.0,
            seconds=3.0,
            seconds_per_epoch=1.5,
            peak_mib=100.0,
            curves={},
            config=description,
            device=f'GPU {seed}',
        )
        run.write(str(folder / 'result.json'))
    words = [str(config), '--report-only', '--seeds', '0', '1']
    words = ['compare.py', *words, '--work-dir', str(tmp_path / 'runs')]
    monkeypatch.setattr('sys.argv', words)
    tool.main()
    command = f"POOL='two words' python {' '.join(words)}"
    lines = (tmp_path / 'runs' / 'environment.txt').read_text().splitlines()
    assert (lines[0], lines[2]) == (f'command: {command}', 'device: GPU 0; GPU 1')
    plan = Plan.read(str(tmp_path / 'runs' / 'comparison.json'))
    assert (plan.command, plan.device) == (command, 'GPU 0; GPU 1')
