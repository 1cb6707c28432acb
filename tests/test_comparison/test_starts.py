# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What a folder holds of another training is neither continued nor taken for this one's."""

import json
import os
from types import SimpleNamespace

import pytest
from test_report.work_dirs import step, validation, write_session

from mtkdrl_mm.comparison import Combination, Row, starts
from mtkdrl_mm.comparison.logs import read_logs
from mtkdrl_mm.comparison.starts import note_end, start_or_continue
from mtkdrl_mm.engine.work_dir_lock import WorkDirLock
from mtkdrl_mm.utils import InputError

ROW = Row('fast', 'config.py')


def start(work_dir, description='hash', files=(), row=ROW):
    return start_or_continue(Combination(row, 3, description, files), str(work_dir))


def test_brackets_in_a_name_are_no_pattern(tmp_path):
    row = Row('lr[0.1]', 'config.py')
    start(tmp_path, row=row)
    (tmp_path / 'lr[0.1]' / 'seed_3' / 'epoch_1.pth').touch()
    start(tmp_path, row=row)
    with pytest.raises(InputError, match='holds an unfinished training of another config'):
        start(tmp_path, 'other', row=row)


@pytest.mark.parametrize('other', [('other', (('a.pth', '1'),)), ('hash', (('a.pth', '2'),))])
def test_logs_of_another_training_are_no_part_of_this_one(tmp_path, other):
    """It had saved nothing, and logged more steps, and another teacher."""
    key = 'teacher_weight/logit/'
    before = [step(1, i, **{f'{key}a': 0.9, f'{key}old': 0.1, 'time': 5.0}) for i in (3, 6, 9)]
    folder = tmp_path / 'fast' / 'seed_3'
    start(tmp_path, 'hash', (('a.pth', '1'),))
    write_session(folder, '20260101_000000', [*before, validation(9, 90.0)])
    (folder / 'class_weights.json').write_text('{"logit": [[0.9, 0.1]], "teachers": ["a", "old"]}')
    (folder / 'output.txt').write_text('an error')
    (folder / 'job.json').write_text('{"job_id": "7"}')
    # The same training goes on with what is there.
    assert start(tmp_path, 'hash', (('a.pth', '1'),)) == str(folder)
    assert read_logs(str(folder), 'accuracy/top1').metric == 90.0

    start(tmp_path, *other)
    files = {path.name for path in folder.iterdir()}
    assert files == {'earlier_1', 'started.json', 'job.json'}
    aside = {path.name for path in (folder / 'earlier_1').iterdir()}
    assert aside == {'20260101_000000', 'class_weights.json', 'output.txt', 'started.json'}
    now = [step(1, 5, **{f'{key}a': 0.2, f'{key}b': 0.8})]
    write_session(folder, '20260102_000000', [*now, validation(1, 60.0)])
    log = read_logs(str(folder), 'accuracy/top1')
    assert (log.metric, log.class_weights) == (60.0, None)
    assert log.curves == {f'{key}a': [(5, 0.2)], f'{key}b': [(5, 0.8)]}
    # Once more, and nothing is lost.
    start(tmp_path, 'third')
    assert (folder / 'earlier_2' / '20260102_000000').is_dir()
    assert json.loads((folder / 'earlier_1' / 'started.json').read_text())['config'] == 'hash'


def test_logs_of_a_training_that_runs_are_not_moved(tmp_path, monkeypatch):
    folder = start(tmp_path)
    write_session(tmp_path / 'fast' / 'seed_3', '20260101_000000', [step(1, 5)])

    def refuse(lock):
        assert lock.path == f'{folder}/.lock'
        raise InputError('in use')

    monkeypatch.setattr(WorkDirLock, 'acquire', refuse)
    start(tmp_path)
    with pytest.raises(InputError, match='in use'):
        start(tmp_path, 'other')
    assert sorted(os.listdir(folder)) == ['20260101_000000', 'started.json']


@pytest.fixture
def clock(monkeypatch):
    """Function that sets the time."""

    def set_time(seconds):
        monkeypatch.setattr(starts, 'time', SimpleNamespace(time=lambda: seconds))

    return set_time


def test_the_time_is_that_of_all_starts(tmp_path, clock):
    clock(1000.0)
    folder = start(tmp_path)
    clock(1008.0)
    assert note_end(folder) == 8.0  # interrupted
    clock(5000.0)
    start(tmp_path)
    # Killed with the tool after 20 seconds: its output ends there.
    output = os.path.join(folder, 'output.txt')
    with open(output, 'w'):
        pass
    os.utime(output, (5020.0, 5020.0))
    clock(6000.0)
    start(tmp_path)
    # Once more, before it printed anything.
    clock(7000.0)
    start(tmp_path)
    clock(7001.5)
    assert note_end(folder) == 8.0 + 20.0 + 1.5
    # Another config starts at 0.
    start(tmp_path, 'other')
    clock(7004.5)
    assert note_end(folder) == 3.0


def test_a_full_disk_loses_no_time(tmp_path, clock, monkeypatch):
    def full(content, path):
        raise OSError('No space left on device')

    clock(1000.0)
    folder = start(tmp_path)
    (tmp_path / 'fast' / 'seed_3' / 'output.txt').touch()
    os.utime(os.path.join(folder, 'output.txt'), (1007.0, 1007.0))
    clock(1008.0)
    with monkeypatch.context() as patch:
        patch.setattr(starts, 'write_json', full)
        assert note_end(folder) == 8.0
    clock(2000.0)
    start(tmp_path)
    clock(2001.0)
    assert note_end(folder) == 8.0


def test_notes_of_earlier_versions_have_no_times(tmp_path, clock):
    folder = tmp_path / 'fast' / 'seed_3'
    folder.mkdir(parents=True)
    (folder / 'started.json').write_text('{"config": "hash"}')
    (folder / 'output.txt').touch()
    clock(1000.0)
    start(tmp_path)
    clock(1004.0)
    assert note_end(str(folder)) == 4.0
