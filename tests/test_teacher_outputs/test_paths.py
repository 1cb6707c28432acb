# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Names of files and folders."""

import os
import subprocess
import sys
import time

import pytest

from mtkdrl_mm.teacher_outputs import teacher_folder
from mtkdrl_mm.teacher_outputs.paths import (
    LEFTOVER_AGE,
    is_abandoned,
    part_path,
    partial_path,
    remove_leftovers,
)
from mtkdrl_mm.utils import InputError


@pytest.mark.parametrize(
    ('name', 'folder'),
    [
        ('resnet50-v1.5_a', 'resnet50-v1.5_a'),
        ('timm/vit small', 'timm%2Fvit%20small'),
        ('..', '%2E.'),
        ('.hidden', '%2Ehidden'),
        ('inputs', '%69nputs'),
        ('Inputs', '%49nputs'),
        ('journals', '%6Aournals'),
        ('教', '%E6%95%99'),
        ('a%2Fb', 'a%252Fb'),
    ],
)
def test_folders_of_teachers(name, folder):
    assert teacher_folder('root', name) == os.path.join('root', folder)


def test_long_names_stay_different():
    first, second = (teacher_folder('root', 'x' * 300 + end) for end in 'ab')
    assert first != second
    assert len(os.path.basename(first)) == 167


def test_a_teacher_needs_a_name():
    with pytest.raises(InputError, match='needs a name, but it is empty'):
        teacher_folder('root', '')


def test_parts_have_as_many_digits_as_they_need():
    assert part_path('f', 1, 2) == 'f/view_001/part_0002.safetensors'
    assert part_path('f', 1234, 56789) == 'f/view_1234/part_56789.safetensors'


def test_leftovers_of_ended_processes_and_old_ones_are_removed(tmp_path):
    ended = subprocess.run(
        [sys.executable, '-c', 'import os; print(os.getpid())'], capture_output=True, text=True
    )
    mine = partial_path(str(tmp_path / 'part_0000.safetensors'))
    pid = f'.{os.getpid()}.'
    of_ended = mine.replace(pid, f'.{ended.stdout.strip()}.')
    elsewhere = mine.replace(pid, f'-elsewhere.{ended.stdout.strip()}.')
    old = elsewhere.replace('part_0000', 'part_0001')
    complete = str(tmp_path / 'part_0002.safetensors')
    for path in (mine, of_ended, elsewhere, old, complete, str(tmp_path / 'notes.tmp')):
        with open(path, 'w'):
            pass
    past = time.time() - LEFTOVER_AGE - 60
    for path in (old, complete):
        os.utime(path, (past, past))
    assert remove_leftovers(str(tmp_path)) == 2
    kept = {mine, elsewhere, complete, str(tmp_path / 'notes.tmp')}
    assert {str(path) for path in tmp_path.iterdir()} == kept
    assert remove_leftovers(str(tmp_path / 'missing')) == 0


def test_temporary_names_differ_within_a_process():
    assert partial_path('a') != partial_path('a')


def test_files_of_processes_that_have_ended(tmp_path):
    def written_by(pid, host='', age=0.0):
        path = partial_path(str(tmp_path / 'a'))
        path = path.replace(f'.{os.getpid()}.', f'{host}.{pid}.')
        with open(path, 'w'):
            pass
        os.utime(path, (time.time() - age,) * 2)
        return path

    child = os.fork()
    if child == 0:
        os._exit(0)
    assert not is_abandoned(written_by(child))  # it has not been waited for
    os.waitpid(child, 0)
    assert is_abandoned(written_by(child))
    assert not is_abandoned(written_by(os.getpid()))
    # Of another host's processes, only the age of the file is known.
    assert not is_abandoned(written_by(child, '-elsewhere', LEFTOVER_AGE - 60))
    assert is_abandoned(written_by(child, '-elsewhere', LEFTOVER_AGE + 60))
    # An old file of a process that lives is no longer written either.
    assert is_abandoned(written_by(os.getpid(), age=LEFTOVER_AGE + 60))
    for name in ('part_0000.safetensors', 'notes.tmp', f'a.{child}.tmp'):
        assert not is_abandoned(str(tmp_path / name))
    with pytest.raises(FileNotFoundError):
        is_abandoned(partial_path(str(tmp_path / 'missing')))
