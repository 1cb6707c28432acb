# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The estimate of a store follows its formulas, and the page shows what the tool prints."""

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from mtkdrl_mm.utils import InputError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / 'docs' / 'stored_outputs_at_scale.md'


@pytest.fixture(scope='module')
def tool():
    path = ROOT / 'tools' / 'analysis_tools' / 'estimate_store.py'
    spec = importlib.util.spec_from_file_location('estimate_store', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its data class
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tool, monkeypatch, capsys):
    """Runs the tool; returns its first line, and its tables as lists of cells."""

    def run(*flags):
        monkeypatch.setattr(sys, 'argv', ['estimate_store.py', *flags])
        tool.main()
        text = capsys.readouterr().out
        blocks = re.findall(r'(?:^\|.*\n?)+', text, re.MULTILINE)
        tables = [
            [[cell.strip() for cell in line.strip('|').split('|')] for line in block.splitlines()]
            for block in blocks
        ]
        return text, tables

    return run


FIGURES = ['--teacher-ms', '3.6', '--images-per-second', '1000', '--step-ratio', '1.2']


def test_formulas(run):
    flags = ['--datasets', 'imagenet1k', '--embeddings', '10', '20', '--maps', '3x2x2']
    flags += ['--views', '5', '--epochs', '10', '--gpus', '1', '4', '--trainings', '1', '2']
    _, (disk, hours, trainings) = run(*FIGURES, *flags)
    # Logits and embeddings: 2 x (2 x 1000 + 30) bytes; maps: 2 x 2 x 12 bytes more.
    assert [row[:4] for row in disk[2:]] == [
        ['ImageNet-1k, none', '4.1 kB', '5.2 GB', '26 GB'],
        ['ImageNet-1k, 3x2x2', '4.1 kB', '5.3 GB', '26 GB'],
    ]
    # 1.2 ms per image from the store: 4060 B / 1.2 ms, four times that; written in 3.6 ms; 4.8 ms.
    assert disk[2][4:] == ['3.4 MB', '14 MB', '1.1 MB', '846 kB']
    # 1,281,167 images: x 5 x 3.6 ms, x 10 x 4.8 ms, x 10 x 1.2 ms, x 10 x 1 ms.
    assert hours[2] == ['ImageNet-1k, 1', '6.4', '17', '4.3', '3.6']
    assert hours[3] == ['ImageNet-1k, 4', '1.6', '4.3', '1.1', '0.89']
    assert trainings[0] == ['trainings', '1 views', '5 views', '10 views', '20 views', '40 views']
    # (V x 3.6 + K x 10 x 1.2) / (K x 10 x 4.8), with at most K x 10 views.
    assert trainings[2] == ['1', '0.33', '0.62', '1.00', '1.00', '1.00']
    assert trainings[3] == ['2', '0.29', '0.44', '0.62', '1.00', '1.00']


def test_figures_of_a_file(run, tmp_path):
    path = tmp_path / 'benchmark.json'
    figures = dict(teacher_ms=3.6, plain_images_per_second=1000.0, step_ratio=1.2)
    path.write_text(json.dumps(dict(figures=figures)))
    expected, _ = run(*FIGURES)
    assert run('--figures', str(path))[0] == expected
    # A flag comes first.
    changed = run('--figures', str(path), '--step-ratio', '1.5')[0]
    assert '1.5 plain steps per step from the store' in changed and changed != expected
    path.write_text(json.dumps(dict(figures=dict(figures, step_ratio=None))))
    with pytest.raises(InputError, match='lacks figures of benchmark_training'):
        run('--figures', str(path))


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (FIGURES[:4], 'Give --step-ratio, or --figures'),
        ([*FIGURES[:1], '0', *FIGURES[2:]], '`--teacher-ms` must be'),
        ([*FIGURES, '--views', '0'], '`--views` must be'),
        ([*FIGURES, '--gpus', '8', '0'], '`--gpus` must be'),
        ([*FIGURES, '--maps', '64x7'], '"64x7" is no size'),
        (['--figures', 'nowhere.json'], 'nowhere.json'),
    ],
)
def test_bad_input(run, flags, words):
    with pytest.raises(InputError, match=words):
        run(*flags)


def test_the_page_shows_what_its_command_prints(run):
    text = PAGE.read_text()
    (command,) = re.findall(
        r'^    python (tools/.*estimate_store.py .*--teacher-ms.*)$', text, re.M
    )
    printed, _ = run(*shlex.split(command)[1:])
    tables = re.findall(r'(?:^\|.*\n?)+', printed, re.MULTILINE)
    assert len(tables) == 3
    for table in tables:
        assert table.strip() in text
