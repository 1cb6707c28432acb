# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Rows of the comparison on several pools."""

import importlib.util
import sys
from pathlib import Path

import pytest

from mtkdrl_mm.comparison import list_rows
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
        rows, singles = tool.pool_rows(pool, [*tool.METHODS, *tool.SETS])
        assert list(rows) == [*tool.METHODS, *singles] and len(singles) == 4
        # They are rows of compare_methods.py, whose configs exist.
        for row in list_rows([], [[name, *words] for name, words in rows.items()]):
            assert dict(row.variables) == variables
    rows, singles = tool.pool_rows('duplicates', ['aver', 'singles'])
    assert singles == ['repvgg_alone', 'repvgg_2_alone', 'repvgg_3_alone', 'resnet_alone']
    assert rows['repvgg_2_alone'][1:3] == [
        'model.weighting.type=StaticWeights',
        'model.weighting.logit.repvgg_2=1',
    ]


def test_only_the_asked_for_rows(tool):
    rows, singles = tool.pool_rows('confused_noisy', ['alone', 'mtkdrl_static'])
    assert rows == dict(
        alone=[
            'configs/cifar10/student_baseline.py',
            'CIFAR10_POOL=confused',
            'CIFAR10_LABELS=noisy_and_held_out',
        ],
        mtkdrl_static=[
            'configs/cifar10/student_mtkdrl_static.py',
            'CIFAR10_POOL=confused',
            'CIFAR10_LABELS=noisy_and_held_out',
        ],
    )
    assert singles == []


def test_what_one_pool_is_compared_with(tool, monkeypatch, tmp_path):
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
