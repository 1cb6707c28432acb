# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The benchmark of the store: all ways read the same bytes, cold ones open their files anew."""

import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from mtkdrl_mm.teacher_outputs import StoreReader
from mtkdrl_mm.utils import InputError

ROOT = Path(__file__).parents[2]
NAMES = ['teacher0', 'teacher1']


@pytest.fixture(scope='module')
def tool():
    path = ROOT / 'tools' / 'analysis_tools' / 'benchmark_store.py'
    spec = importlib.util.spec_from_file_location('benchmark_store', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_ways_read_the_same(tool, tmp_path):
    root = str(tmp_path)
    assert tool.write_random_store(root, 2, samples=50, part_size=16, logits=7, embedding=5) > 0
    expected = StoreReader(root, NAMES).read_packed(range(50), 0)
    ways = tool.build_ways(root, NAMES, cold=True)
    assert len(ways) == 5
    for build in ways.values():
        np.testing.assert_array_equal(build()(list(range(50))), expected)


@pytest.mark.parametrize('cold', [False, True])
def test_what_is_timed(tool, tmp_path, monkeypatch, cold):
    root = str(tmp_path)
    tool.write_random_store(root, 1, samples=20, part_size=16, logits=7, embedding=5)
    opened, read = [], []

    def build():
        opened.append(1)
        return read.append

    monkeypatch.setattr(tool, 'build_ways', lambda *args: dict(store=build, other=build))
    rates = tool.measure(root, NAMES[:1], cold, count=10, batch_size=4, rounds=3)
    assert {name: len(values) for name, values in rates.items()} == dict(store=3, other=3)
    assert len(opened) == (6 if cold else 2)
    batches = read if cold else read[2:]  # the first two fill the cache
    assert [len(batch) for batch in batches] == [4, 4, 2] * 6
    # Both read the same samples in a round, and others in the next.
    rounds = [[*batches[i], *batches[i + 1], *batches[i + 2]] for i in range(0, 18, 3)]
    assert rounds[0] == rounds[1] != rounds[2] == rounds[3]


def test_tables(tool, tmp_path, monkeypatch, capsys):
    flags = '--teachers 2 --samples 40 --part-size 16 --logits 7 --embedding 5 --count 8 --rounds 2'
    folder, path = tmp_path / 'folder', tmp_path / 'out.json'
    folder.mkdir()
    flags += f' --folder {folder} --out {path}'
    monkeypatch.setattr(sys, 'argv', ['tool', *flags.split()])
    tool.main()
    out = capsys.readouterr().out
    # 7 and 5 float16 numbers take 16 bytes each, aligned.
    assert '2 teachers, 64 bytes per sample, 40 samples, batch 64, 2 interleaved rounds of 8' in out
    assert len(re.findall(r'^store +[\d,]+ +1\.000$', out, re.MULTILINE)) == 2
    assert len(re.findall(r'^memmap +[\d,]+ +\d+\.\d{3}$', out, re.MULTILINE)) == 2
    assert os.listdir(folder) == []
    numbers = json.loads(path.read_text())
    assert numbers['bytes_per_sample'] == 64
    for title in ('warm', 'cold'):
        assert {len(rates) for rates in numbers[title].values()} == {2}
        medians = re.findall(r'^store +([\d,]+)', out, re.MULTILINE)
        assert f'{median(numbers[title]["store"]):,.0f}' in medians


def test_ratios_are_taken_within_a_round(tool, capsys):
    tool.report('Title', dict(store=[100.0, 10.0, 1000.0], other=[50.0, 5.0, 100.0]))
    lines = capsys.readouterr().out.split('\n')
    assert lines[2].split() == ['store', '100', '1.000']
    assert lines[3].split() == ['other', '50', '0.500']


def test_a_folder_without_teachers(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tool', str(tmp_path)])
    with pytest.raises(InputError, match='holds no teacher'):
        tool.main()
