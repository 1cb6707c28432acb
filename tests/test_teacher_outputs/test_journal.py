# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Journals: rows of several processes, of which some were killed or are still writing."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from mtkdrl_mm.teacher_outputs import ViewJournal, list_teachers
from mtkdrl_mm.utils import InputError

NBYTES = 24
RECORD = 12 + NBYTES
IDENTITY = '7b' * 32


def rows_of(samples, view=0):
    """Bytes and checksums that depend on sample and view."""
    samples = np.asarray(list(samples))
    rows = (samples[:, None] * 7 + view * 31 + np.arange(NBYTES)) % 256
    return (samples * 1000 + 4_000_000_000 + view).tolist(), rows.astype(np.uint8)


def journal(root, view=0, identity=IDENTITY, nbytes=NBYTES):
    return ViewJournal(str(root), view, nbytes, [identity])


def append(to, samples, view=0):
    crc32, rows = rows_of(samples, view)
    to.append(list(samples), crc32, rows)


def check(of, samples, view=0):
    """What is read is what was appended, without a difference."""
    crc32, rows = of.read(list(samples))
    expected = rows_of(samples, view)
    assert (crc32.dtype, crc32.tolist()) == (np.uint32, expected[0])
    assert rows.dtype == np.uint8
    np.testing.assert_array_equal(rows, expected[1])


def files(root):
    return sorted((Path(root) / 'journals').glob('*'))


def test_rows_of_several_processes_in_any_order(tmp_path):
    first, second = journal(tmp_path), journal(tmp_path)
    append(first, [9, 3])
    append(second, [4])
    append(first, [0])
    assert [path.stat().st_size for path in files(tmp_path)] in ([3 * RECORD, RECORD], [36, 108])
    reader = journal(tmp_path)
    assert reader.missing([0, 1, 3]) == [0, 1, 3]  # before it has looked
    reader.load()
    assert reader.missing(range(11)) == [1, 2, 5, 6, 7, 8, 10]
    check(reader, [0, 3, 4, 9])
    check(reader, [9, 9, 4])
    check(reader, [])
    append(second, [1, 2])
    assert reader.missing([1, 2]) == [1, 2]
    reader.load()
    check(reader, range(5))


def test_other_views_and_identities_are_not_read(tmp_path):
    append(journal(tmp_path, view=0), [1])
    append(journal(tmp_path, view=1), [2], view=1)
    append(journal(tmp_path, view=0, identity='7c' * 32), [3])
    append(journal(tmp_path, view=10), [4])
    reader = journal(tmp_path, view=1)
    reader.load()
    assert reader.missing(range(5)) == [0, 1, 3, 4]
    check(reader, [2], view=1)


def test_a_sample_that_was_seen_twice(tmp_path):
    one = journal(tmp_path)
    append(one, [5])
    append(one, [5, 6])
    one.load()
    check(one, [5, 6])


@pytest.mark.parametrize('cut', [1, 12, RECORD - 1])
def test_the_last_row_of_a_killed_process(tmp_path, cut):
    append(journal(tmp_path), [0, 1, 2])
    (path,) = files(tmp_path)
    os.truncate(path, 3 * RECORD - cut)
    reader = journal(tmp_path)
    reader.load()
    assert reader.missing(range(3)) == [2]
    check(reader, [0, 1])


@pytest.mark.parametrize('left', [0, 5])
def test_a_file_without_a_whole_row(tmp_path, left):
    append(journal(tmp_path), [0])
    os.truncate(files(tmp_path)[0], left)
    reader = journal(tmp_path)
    reader.load()
    assert reader.missing([0]) == [0]


def test_every_flipped_bit_is_found(tmp_path):
    append(journal(tmp_path), [0, 1, 2])
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for position in range(RECORD, 2 * RECORD):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        reader = journal(tmp_path)
        reader.load()
        assert reader.missing(range(3)) == [1]
        check(reader, [0, 2])


def test_a_whole_row_replaces_a_damaged_one(tmp_path):
    append(journal(tmp_path), [0])
    (path,) = files(tmp_path)
    path.write_bytes(bytes(RECORD))
    append(journal(tmp_path), [0])
    reader = journal(tmp_path)
    reader.load()
    check(reader, [0])


def test_rows_that_are_gone_are_one_sentence(tmp_path):
    one = journal(tmp_path, view=3)
    append(one, [0], view=3)
    one.load()
    with pytest.raises(InputError) as error:
        one.read([0, 8])
    assert str(error.value) == (
        f'The journals in "{tmp_path}/journals" hold no whole row of sample 8 in view 3, though it '
        'was written: they were damaged or removed.'
    )


def test_rows_that_are_added_later(tmp_path):
    writer, reader = journal(tmp_path), journal(tmp_path)
    append(writer, [1])
    reader.load()
    append(writer, [2])
    append(journal(tmp_path), [3])
    assert reader.missing([1, 2, 3]) == [2, 3]
    reader.load()
    assert reader.missing([1, 2, 3]) == []
    check(reader, [3, 2])


def test_files_that_another_training_removes(tmp_path):
    """They are read to the end, and rows can be added."""
    first, second = journal(tmp_path), journal(tmp_path)
    append(first, [1])
    append(second, [2])
    second.load()
    first.remove()
    assert len(files(tmp_path)) == 1
    check(second, [1, 2])
    second.remove()
    assert files(tmp_path) == []
    append(second, [3])
    second.load()
    assert second.missing([1, 2, 3]) == [1, 2]


def test_after_a_full_disk_rows_begin_where_they_should(tmp_path, monkeypatch):
    one = journal(tmp_path)
    append(one, [0])
    (path,) = files(tmp_path)
    with path.open('ab') as file:  # what came on the disk of a row
        file.write(bytes(20))
    append(one, [1])
    one.load()
    check(one, [0, 1])
    assert path.stat().st_size == 2 * RECORD

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'makedirs', full)
    with pytest.raises(InputError, match=r'^"/.*/journals/view_000\..*" cannot be written: No spa'):
        append(one, [2])


def test_a_folder_that_another_process_removes(tmp_path, monkeypatch):
    """The last one that finishes a view removes it, while another one appends to the next view."""
    real, calls = os.makedirs, []

    def removed(path, **kwargs):
        real(path, **kwargs)
        calls.append(path)
        if len(calls) == 1:
            os.rmdir(path)

    monkeypatch.setattr(os, 'makedirs', removed)
    one = journal(tmp_path)
    append(one, [0])
    assert len(calls) == 2
    one.load()
    check(one, [0])


def test_only_files_of_ended_processes_are_removed(tmp_path):
    child = os.fork()
    if child == 0:
        append(journal(tmp_path), [0])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    other, mine, next_view = journal(tmp_path), journal(tmp_path), journal(tmp_path, view=1)
    append(other, [1])
    append(next_view, [1], view=1)
    append(mine, [2])
    assert len(files(tmp_path)) == 4
    mine.load()
    assert mine.missing(range(4)) == [3]
    mine.remove()
    left = files(tmp_path)
    assert len(left) == 2
    mine.load()
    assert mine.missing(range(3)) == [0, 2]
    append(mine, [2])  # to a new file
    assert len(files(tmp_path)) == 3
    for one in (mine, other, next_view):
        one.remove()
    assert not (tmp_path / 'journals').exists()
    mine.remove()  # there is nothing


def test_processes_that_remove_at_the_same_time(tmp_path, monkeypatch):
    one, other = journal(tmp_path), journal(tmp_path)
    append(one, [0])
    append(other, [1])
    listed = one._files()
    other.remove()
    monkeypatch.setattr(one, '_files', lambda: [*listed, str(tmp_path / 'gone')])
    one.remove()
    assert not (tmp_path / 'journals').exists()


def test_journals_are_no_teacher(tmp_path):
    append(journal(tmp_path), [0])
    assert list_teachers(str(tmp_path)) == []


def test_rows_of_no_image(tmp_path):
    one = journal(tmp_path)
    one.append([], [], np.zeros((0, NBYTES), np.uint8))
    one.load()
    assert one.missing([0]) == [0]
