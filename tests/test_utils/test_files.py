# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Files appear wholly or not at all."""

import errno
import json
import os

import pytest

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.files import (
    atomic_write,
    check_output_file,
    check_output_folder,
    create_file,
    describe_medium_error,
    write_json,
)


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with atomic_write(path) as file:
        file.write('new')
        file.flush()
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'
    assert os.listdir(tmp_path) == ['a.txt']


def test_an_error_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / 'a.bin'
    path.write_bytes(b'old')
    with pytest.raises(OSError, match='full') as error, atomic_write(path, 'wb') as file:
        file.write(b'half')
        raise OSError(errno.ENOSPC, 'full')
    assert error.value.filename == str(path)  # which a failing write does not know
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['a.bin']


def test_a_failed_fsync_counts_as_a_failed_write(tmp_path, monkeypatch):
    path = tmp_path / 'a'
    path.write_text('old')

    def full(handle):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space'), atomic_write(path) as file:
        file.write('new')
    assert path.read_text() == 'old'


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / 'a.txt'
    with atomic_write(path, partial=f'{path}.1') as first:
        first.write('first')
        with atomic_write(path, partial=f'{path}.2') as second:
            second.write('second')
        assert path.read_text() == 'second'
    assert path.read_text() == 'first'
    assert os.listdir(tmp_path) == ['a.txt']


def test_a_file_is_created_once(tmp_path, monkeypatch):
    path = tmp_path / 'a'
    assert create_file(path, b'first', f'{path}.1')
    assert not create_file(path, b'second', f'{path}.2')
    assert path.read_bytes() == b'first'

    def full(handle):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space'):
        create_file(tmp_path / 'b', b'x', f'{path}.3')
    assert os.listdir(tmp_path) == ['a']


def test_json(tmp_path):
    path = tmp_path / 'result.json'
    write_json(dict(a=[1, 2.5]), path, indent=1)
    assert json.loads(path.read_text()) == dict(a=[1, 2.5])
    with pytest.raises(TypeError):
        write_json(dict(a=object()), path)
    assert json.loads(path.read_text()) == dict(a=[1, 2.5])


def test_errors_of_the_medium_name_the_file_and_the_free_space(tmp_path):
    path = str(tmp_path / 'missing' / 'a.pth')
    text = describe_medium_error(OSError(errno.ENOSPC, 'No space left on device'), path)
    assert text.startswith(f'"{path}" cannot be written: No space left on device (')
    assert text.endswith('MiB free on that disk)')
    text = describe_medium_error(OSError(errno.EROFS, 'Read-only file system'), path)
    assert text == f'"{path}" cannot be written: Read-only file system'


def test_places_of_output_are_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').touch()
    (tmp_path / 'folder').mkdir()
    for path in ('folder', 'new', 'new/er', str(tmp_path)):
        check_output_folder('--out', path)
    assert not (tmp_path / 'new').exists()
    with pytest.raises(InputError, match=r'^--out: "file" cannot be a folder\. Give another'):
        check_output_folder('--out', 'file')
    with pytest.raises(InputError, match=r'"file/a/b" cannot be a folder, because ".*/file" is'):
        check_output_folder('--out', 'file/a/b')

    for path in (None, '', 'a.csv', 'file', 'folder/a.csv', 'made/for/a.csv'):
        check_output_file('--out', path)
    assert sorted(os.listdir(tmp_path)) == ['file', 'folder', 'made']
    for path in ('folder', 'new/'):
        with pytest.raises(InputError, match=rf'^--out takes a file, but "{path}" is a folder'):
            check_output_file('--out', path)
    with pytest.raises(InputError, match=r'^--out: "file" cannot be a folder'):
        check_output_file('--out', 'file/a.csv')

    monkeypatch.setattr(os, 'access', lambda path, mode: False)  # root may write everywhere
    for check, path in ((check_output_folder, 'new/er'), (check_output_file, 'a.csv')):
        with pytest.raises(InputError, match=rf'--out: the folder "{tmp_path}" cannot be written'):
            check('--out', path)
