# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the tool writes: the page while trainings go on, and the command and the devices."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_teacher_outputs.stores import write_manifests

from mtkdrl_mm.comparison import ComparisonSettings, Plan, Row, Run, describe, train_all
from mtkdrl_mm.comparison.results import result_path
from mtkdrl_mm.utils import InputError

ROOT = Path(__file__).parents[2]
PATH = ROOT / 'tools' / 'analysis_tools' / 'compare_methods.py'
HOLD = """
import sys
from mtkdrl_mm.engine.work_dir_lock import WorkDirLock
with WorkDirLock(sys.argv[1], 'comparison'):
    print('held', flush=True)
    sys.stdin.read()
"""


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


@pytest.fixture
def start(tool, monkeypatch, tmp_path):
    """Function that starts the tool in this process, in the work dir ``runs``."""
    monkeypatch.chdir(ROOT)

    def call(*flags):
        words = ['configs/demo/student_aver.py', '--seeds', '0', '--work-dir']
        monkeypatch.setattr(sys, 'argv', [str(PATH), *words, str(tmp_path / 'runs'), *flags])
        tool.main()

    return call


@pytest.fixture
def result(tmp_path):
    """The result of its training."""
    folder = tmp_path / 'runs' / 'aver' / 'seed_0'
    folder.mkdir(parents=True)
    costs = dict(seconds=1.0, seconds_per_epoch=1.0, peak_mib=1.0, curves={})
    run = Run(method='aver', seed=0, metric=61.0, metric_name='accuracy/top1', **costs)
    run.write(result_path(str(folder)))
    return run


def test_a_second_comparison_touches_nothing(start, result, tmp_path, capsys):
    """Only a report is written while the first one runs, and its plan and page are left alone."""
    work_dir, out = tmp_path / 'runs', tmp_path / 'out'
    Plan(rows=[Row('other', 'other.py')], seeds=[7]).write(str(work_dir))

    def contents():
        files = [path for path in work_dir.rglob('*') if path.is_file()]
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    command = [sys.executable, '-c', HOLD, str(work_dir)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(command, **pipes) as holder:
        assert holder.stdout.readline() == 'held\n'
        before = contents()
        with pytest.raises(InputError) as error:
            start()
        assert str(error.value).startswith(
            f'The work dir "{work_dir}" is in use by another comparison (process {holder.pid} on '
        )
        assert contents() == before and capsys.readouterr().out == ''
        start('--report-only', '--out', str(out))
        assert contents() == before
        assert f'A comparison runs in {work_dir}: its plan' in capsys.readouterr().out
        assert 'aver' in (out / 'table.csv').read_text()
        assert '1 method, 1 seed: 1 of 1' in (out / 'report.html').read_text()
        holder.communicate('')
    start('--report-only')
    assert json.loads((work_dir / 'comparison.json').read_text())['seeds'] == [0]


def test_the_work_dir_is_locked_while_it_trains(start, tool, result, monkeypatch, tmp_path):
    lock = tmp_path / 'runs' / '.lock'
    seen = []

    def train_all(combinations, settings, on_end):
        seen.append(lock.exists())
        return [result]

    monkeypatch.setattr(tool, 'train_all', train_all)
    start()
    assert seen == [True] and not lock.exists()


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


def test_a_result_from_other_stored_outputs_is_refused(start, tool, result, monkeypatch, tmp_path):
    """Of a store that is there before the teachers run again, and of one that is filled now."""
    names = ['densenet', 'repvgg', 'resnet', 'wide_resnet']
    store = tmp_path / 'store'
    calls = []

    def fake_train_all(combinations, settings, on_end):
        calls.append(combinations)
        return [result, None]

    monkeypatch.setattr(tool, 'fill_stores', lambda stores, settings: calls.append('fill'))
    monkeypatch.setattr(tool, 'train_all', fake_train_all)
    path = result_path(str(tmp_path / 'runs' / 'aver' / 'seed_0'))
    flags = ['--store', str(store), '--seeds', '0', '1']

    write_manifests(str(store), *names)
    with pytest.raises(InputError, match='1 of 2 trainings have no result'):
        start(*flags)
    files = dict(calls[1][0].files)
    stored = [f'--store/{name}/manifest.json' for name in ['inputs', *names]]
    assert calls[0] == 'fill' and set(stored) < set(files)
    replace(result, files=files).write(path)

    write_manifests(str(store), *names, num_views=4)
    for more in ([], ['--report-only']):
        with pytest.raises(InputError) as error:
            start(*flags, *more)
        assert str(error.value) == (
            f'{path} was trained with another "{stored[0]}" than is there now. Give another '
            '--work-dir, or remove that run to train it again.'
        )
    assert len(calls) == 2

    def fill(stores, settings):
        write_manifests(stores[0].path, *names, num_views=4)

    monkeypatch.setattr(tool, 'fill_stores', fill)
    monkeypatch.setattr(tool, 'train_all', train_all)
    with pytest.raises(InputError, match='was trained with another "--store/inputs/manifest'):
        start('--store', str(tmp_path / 'new'), '--seeds', '0', '1')
    assert not (tmp_path / 'runs' / 'aver' / 'seed_1').exists()
