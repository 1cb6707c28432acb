# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Rows of the comparison on several pools."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mtkdrl_mm.comparison import Run, list_rows
from mtkdrl_mm.comparison.results import result_path
from mtkdrl_mm.comparison.rows import training_folder
from mtkdrl_mm.utils import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.chdir(ROOT)
    path = ROOT / 'tools' / 'analysis_tools' / 'compare_pools.py'
    spec = importlib.util.spec_from_file_location('compare_pools', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_pool_has_its_rows(tool):
    for pool, variables in tool.POOLS.items():
        rows = tool.pool_rows(pool, [*tool.METHODS, *tool.SETS])
        singles = list(rows)[len(tool.METHODS) :]
        assert list(rows) == [*tool.METHODS, *singles] and len(singles) == 4
        # They are rows of compare_methods.py, whose configs exist.
        for row in list_rows([], [[name, *words] for name, words in rows.items()]):
            read = dict(variables)
            if row.name == 'alone':  # it has no teachers, and what no config reads is refused
                del read['CIFAR10_POOL']
            assert dict(row.variables) == read
    rows = tool.pool_rows('duplicates', ['aver', 'singles'])
    singles = ['repvgg_alone', 'repvgg_2_alone', 'repvgg_3_alone', 'resnet_alone']
    assert list(rows) == ['aver', *singles]
    assert rows['repvgg_2_alone'][1:3] == [
        'model.weighting.type=StaticWeights',
        'model.weighting.logit.repvgg_2=1',
    ]


def test_only_the_asked_for_rows(tool):
    rows = tool.pool_rows('confused_noisy', ['alone', 'mtkdrl_static'])
    assert rows == dict(
        alone=['configs/cifar10/student_baseline.py', 'CIFAR10_LABELS=noisy_and_held_out'],
        mtkdrl_static=[
            'configs/cifar10/student_mtkdrl_static.py',
            'CIFAR10_POOL=confused',
            'CIFAR10_LABELS=noisy_and_held_out',
        ],
    )


@pytest.fixture
def folder(tool, tmp_path, monkeypatch):
    """A current folder with the configs of the repository, and no teachers."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_teachers(folder, *names):
    for name in names:
        path = folder / 'work_dirs' / 'cifar10' / f'teacher_{name}' / 'epoch_12.pth'
        path.parent.mkdir(parents=True)
        path.touch()


def test_missing_teachers_of_all_pools_are_named_at_once(tool, folder, monkeypatch):
    """Once each, before anything is trained; what is finished needs none."""
    make_teachers(folder, 'resnet', 'regnet')
    started = []
    monkeypatch.setattr(tool, 'run_child', lambda command: (started.append(command) or 0, None))
    arguments = ['--methods', 'aver', 'alone', '--seeds', '7', '--pools', 'clean', 'weak']
    monkeypatch.setattr(sys, 'argv', ['compare_pools.py', *arguments, 'duplicates'])
    with pytest.raises(InputError) as error:
        tool.main()
    assert str(error.value).splitlines() == [
        f'Teacher "{name}": the file "work_dirs/cifar10/teacher_{name}/epoch_12.pth" does not '
        f'exist. Train it: python tools/train.py configs/cifar10/teacher_{name}.py'
        for name in ('densenet', 'repvgg', 'weak')
    ]
    assert not started
    costs = dict(seconds=3.0, seconds_per_epoch=1.5, peak_mib=100.0, curves={})
    for pool in ('clean', 'weak', 'duplicates'):
        done = Path(training_folder(f'work_dirs/pools/{pool}', 'aver', 7))
        done.mkdir(parents=True)
        Run(method='aver', seed=7, metric=60.0, **costs).write(result_path(str(done)))
    tool.main()
    assert len(started) == 3


def test_what_one_pool_is_compared_with(tool, folder, monkeypatch, tmp_path):
    make_teachers(folder, 'resnet', 'densenet', 'repvgg', 'regnet', 'weak')
    commands = []

    def run(command):
        commands.append(command)
        return 1, None

    monkeypatch.setattr(tool, 'run_child', run)
    arguments = ['--pools', 'clean', 'weak', '--methods', 'aver', '--seeds', '7', '--jobs', '2']
    arguments += ['--work-dir', str(tmp_path / 'work'), '--store', 'stores', '--out', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', ['compare_pools.py', *arguments])
    with pytest.raises(InputError, match='Not all trainings of these pools have results: clean, w'):
        tool.main()
    assert len(commands) == 2
    assert commands[1][2:] == [
        *('--row', 'aver', 'configs/cifar10/student_aver.py', 'CIFAR10_POOL=weak'),
        'CIFAR10_LABELS=clean_and_held_out',
        *('--seeds', '7', '--jobs', '2', '--work-dir', str(tmp_path / 'work' / 'weak')),
        *('--store', 'stores/weak', '--views', '4', '--out', str(tmp_path / 'weak')),
    ]


def test_tables_are_written_from_all_results(tool, folder, monkeypatch, tmp_path, capsys):
    """Also from those of earlier commands, and after a command that trained something else."""
    make_teachers(folder, 'resnet', 'densenet', 'repvgg', 'regnet', 'weak')
    work = tmp_path / 'work'
    for method, metric in (('aver', 60.0), ('repvgg_alone', 61.0), ('mtkdrl_stacking', 62.0)):
        folder = training_folder(str(work / 'weak'), method, 0)
        (tmp_path / folder).mkdir(parents=True)
        costs = dict(seconds=3.0, seconds_per_epoch=1.5, peak_mib=100.0, curves={})
        Run(method=method, seed=0, metric=metric, **costs).write(result_path(folder))
    monkeypatch.setattr(tool, 'run_child', lambda command: (0, None))  # trains nothing
    for more in (['--methods', 'ebkd'], ['--report-only', '--methods', 'aver']):
        arguments = ['--pools', 'weak', 'clean', '--seeds', '0', '--work-dir', str(work), *more]
        monkeypatch.setattr(sys, 'argv', ['compare_pools.py', *arguments])
        tool.main()
        assert (work / 'pools.csv').read_text().splitlines() == [
            'pool,best single teacher,aver,mtkdrl_stacking',
            'weak,61.00 (repvgg_alone),60.00,62.00',
        ]
        cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-3].split('|')]
        assert cells[1:4] == ['weak', '+1.00', '+2.00']


def test_what_cannot_be_in_one_table_is_refused(tool, folder, monkeypatch, tmp_path):
    """Before anything is trained in any pool, and whatever rows the results are of."""
    make_teachers(folder, 'resnet', 'densenet', 'repvgg', 'regnet', 'weak')
    commands = []
    monkeypatch.setattr(tool, 'run_child', lambda command: (commands.append(command) or 0, None))
    work = tmp_path / 'work'
    costs = dict(seconds=3.0, seconds_per_epoch=1.5, peak_mib=100.0, curves={})

    def start(*flags):
        arguments = ['--pools', 'clean', 'weak', '--seeds', '0', '--work-dir', str(work)]
        monkeypatch.setattr(sys, 'argv', ['compare_pools.py', *arguments, *flags])
        commands.clear()
        tool.main()

    def refused(*flags):
        with pytest.raises(InputError) as error:
            start(*flags)
        assert not commands
        return str(error.value)

    start('--methods', 'aver')
    assert len(commands) == 2
    result = result_path(training_folder(str(work / 'weak'), 'aver', 0))
    Path(result).parent.mkdir(parents=True)
    run = Run(method='aver', seed=0, metric=60.0, **costs)
    run.write(result)
    ours = ['--methods', 'mtkdrl_stacking']
    longer = ['--cfg-options', 'train_cfg.max_epochs=24']
    assert refused(*ours, *longer).startswith(
        f'The results in "{work}/weak" are trained without --cfg-options, and this command trains '
        'with --cfg-options train_cfg.max_epochs=24: '
    )
    assert 'with --views 4, and this command trains with --views 2' in refused(*ours, '--views=2')
    monkeypatch.setenv('NUM_TEACHERS', '2')
    assert 'this command trains with NUM_TEACHERS=2' in refused(*ours)
    monkeypatch.delenv('NUM_TEACHERS')
    start(*ours)
    assert len(commands) == 2
    # A teacher that was taught again since.
    teacher = 'work_dirs/cifar10/teacher_resnet/epoch_12.pth'
    replace(run, files={teacher: 'another digest'}).write(result)
    assert refused(*ours) == (
        f'{result} was trained with another "{teacher}" than is there now. Give another '
        '--work-dir, or remove that run to train it again.'
    )
    # The tables of what is there are written in any case.
    start('--report-only', *longer)
    assert (work / 'pools.csv').read_text().splitlines()[1] == 'weak,,60.00'


def test_no_tables_without_results(tool, monkeypatch, tmp_path):
    work, out = tmp_path / 'gone', tmp_path / 'out'
    arguments = ['--pools', 'weak', '--report-only', '--work-dir', str(work), '--out', str(out)]
    monkeypatch.setattr(sys, 'argv', ['compare_pools.py', *arguments])
    with pytest.raises(InputError, match='gone" holds no results of these pools: weak'):
        tool.main()
    assert not work.exists() and not out.exists()
