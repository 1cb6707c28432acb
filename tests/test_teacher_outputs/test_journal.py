# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Rows of trainings that fill a store."""

import os
import subprocess
import sys

import numpy as np
import pytest

from mtkdrl_mm.teacher_outputs import ViewJournal
from mtkdrl_mm.teacher_outputs import journal as module
from mtkdrl_mm.utils import InputError

ROW = 5


def rows(samples):
    return np.array([[sample % 251, 1, 2, 3, view] for view, sample in enumerate(samples)], 'u1')


def open_journal(root, identities=('a', 'b'), view=0):
    return ViewJournal(str(root), view, ROW, identities)


def write(journal, samples):
    journal.append(samples, [10 * sample for sample in samples], rows(samples))
    return journal


def test_rows_of_several_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(module, '_CHUNK', 40)  # two records
    write(write(open_journal(tmp_path), [7, 3, 500]), [4])
    write(open_journal(tmp_path), [1])
    reader = open_journal(tmp_path)
    reader.load()
    assert reader.missing(range(9)) == [0, 2, 5, 6, 8]
    crc32, found = reader.read([500, 1, 3, 4])
    assert crc32.tolist() == [5000, 10, 30, 40]
    np.testing.assert_array_equal(
        found, np.stack([rows([7, 3, 500])[2], *rows([1]), rows([7, 3])[1], *rows([4])])
    )


def test_rows_that_are_added_later(tmp_path):
    writer = write(open_journal(tmp_path), [1])
    reader = open_journal(tmp_path)
    reader.load()
    write(writer, [2])
    write(open_journal(tmp_path), [3])
    assert reader.missing([1, 2, 3]) == [2, 3]
    reader.load()
    assert reader.missing([1, 2, 3]) == []
    assert reader.read([3, 2])[0].tolist() == [30, 20]


@pytest.mark.parametrize(
    ('identities', 'view'), [(list('abcdx'), 0), (list('bacde'), 0), (list('abcde'), 1)]
)
def test_rows_of_other_teachers_or_views(tmp_path, identities, view):
    write(open_journal(tmp_path, list('abcde')), [1])
    for expected, other in (([], (list('abcde'), 0)), ([1], (identities, view))):
        reader = open_journal(tmp_path, *other)
        reader.load()
        assert reader.missing([1]) == expected


def test_a_row_that_was_cut_off_or_damaged(tmp_path):
    journal = write(open_journal(tmp_path), [1, 2, 3])
    (name,) = os.listdir(journal.folder)
    path = tmp_path / 'journals' / name
    content = bytearray(path.read_bytes())
    size = len(content) // 3
    content[size + 14] ^= 1
    path.write_bytes(content[: 2 * size + 5])  # as after a full disk
    reader = open_journal(tmp_path)
    reader.load()
    assert reader.missing([1, 2, 3]) == [2, 3]
    write(journal, [2, 4])
    reader.load()
    assert reader.missing([1, 2, 3, 4]) == [3]
    assert reader.read([2, 4])[0].tolist() == [20, 40]


def test_files_that_another_training_removes(tmp_path):
    """They are read to the end, and rows can be added."""
    first, second = write(open_journal(tmp_path), [1]), write(open_journal(tmp_path), [2])
    second.load()
    first.remove()
    assert len(os.listdir(tmp_path / 'journals')) == 1
    assert second.read([1, 2])[0].tolist() == [10, 20]
    second.remove()
    assert os.listdir(tmp_path) == []
    write(second, [3]).load()
    assert second.missing([1, 2, 3]) == [1, 2]


def test_files_of_killed_processes_are_removed(tmp_path):
    script = (
        'import numpy as np, os, signal\n'
        'from mtkdrl_mm.teacher_outputs import ViewJournal\n'
        f'journal = ViewJournal({str(tmp_path)!r}, 0, {ROW}, ["a", "b"])\n'
        f'journal.append([6], [60], np.ones((1, {ROW}), np.uint8))\n'
        'os.kill(os.getpid(), signal.SIGKILL)'
    )
    assert subprocess.run([sys.executable, '-c', script]).returncode == -9
    journal = open_journal(tmp_path)
    journal.load()
    assert journal.read([6])[1].tolist() == [[1] * ROW]
    journal.remove()
    assert os.listdir(tmp_path) == []


def test_the_folder_of_another_training_is_removed_while_a_file_is_created(tmp_path, monkeypatch):
    make, removed = os.makedirs, []

    def race(path, **kwargs):
        make(path, **kwargs)
        if not removed:
            removed.append(os.rmdir(path))

    monkeypatch.setattr(os, 'makedirs', race)
    journal = write(open_journal(tmp_path), [1])
    journal.load()
    assert removed and journal.missing([1]) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'journals').write_text('')
    with pytest.raises(InputError, match=r'journals/view_000\.[0-9a-f]{16}\..*" cannot be written'):
        write(open_journal(tmp_path), [1])
