# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Data sets are found in folders and archives, and written wholly or not at all."""

import os
import shutil
import tarfile

import pytest

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.image_folders import new_folder, open_source, write_labels


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / 'source' / 'inner' / 'train' / 'cat'
    folder.mkdir(parents=True)
    (folder / '1.png').write_text('pixels')
    return tmp_path / 'source'


@pytest.mark.parametrize('kind', ['folder', 'inner folder', 'zip', 'gztar', 'xztar'])
def test_source_is_found_and_archives_are_removed_again(source, kind):
    path = source
    if kind == 'inner folder':
        path = source / 'inner'
    elif kind != 'folder':
        path = shutil.make_archive(source.parent / 'data', kind, source)
    with open_source(str(path), 'train/cat') as root:
        with open(os.path.join(root, 'train', 'cat', '1.png')) as file:
            assert file.read() == 'pixels'
    assert os.path.isdir(root) == (kind in ('folder', 'inner folder'))


def test_source_without_the_folder_is_left_to_the_caller(source):
    with open_source(str(source), 'test') as root:
        assert root == str(source)


@pytest.mark.parametrize('kind', ['zip', 'gztar', 'xztar', 'tar'])
@pytest.mark.parametrize('kept', [0, 0.5])
def test_damaged_archives(source, kind, kept):
    # Random bytes, which no format compresses, so that half the archive is half of them.
    (source / 'inner' / 'train' / 'cat' / '2.png').write_bytes(os.urandom(40_000))
    path = shutil.make_archive(source.parent / 'data', kind, source)
    os.truncate(path, int(kept * os.path.getsize(path)))
    with pytest.raises(InputError, match=r'data\S* is no tar or zip archive, or is damaged: '):
        with open_source(path, 'train'):
            pass


def test_archives_write_nothing_outside(source, tmp_path):
    (tmp_path / 'evil').write_text('x')
    with tarfile.open(tmp_path / 'data.tar', 'w') as archive:
        archive.add(tmp_path / 'evil', arcname='../../evil')
    with (
        pytest.raises(InputError, match='outside'),
        open_source(str(tmp_path / 'data.tar'), 'train'),
    ):
        pass


def test_source_must_exist():
    with pytest.raises(InputError, match='The source "no/where" does not exist'):
        with open_source('no/where', 'train'):
            pass


@pytest.mark.parametrize('slash', ['', '/'])
def test_folder_appears_when_it_is_complete(tmp_path, slash):
    out = tmp_path / 'a' / 'out'
    with new_folder(f'{out}{slash}') as part:
        write_labels(os.path.join(part, 'x.txt'), [('cat/1.png', 0), ('dog/2 a.png', 1)])
        assert not out.exists()
    assert (out / 'x.txt').read_text() == 'cat/1.png 0\ndog/2 a.png 1\n'
    assert os.listdir(tmp_path / 'a') == ['out']
    with pytest.raises(InputError, match='Remove it, or choose another'), new_folder(str(out)):
        pytest.fail('it was opened')


def test_nothing_is_left_of_a_failure_or_of_a_killed_run(tmp_path):
    (tmp_path / 'out.part').mkdir()
    (tmp_path / 'out.part' / 'old').touch()
    with pytest.raises(KeyboardInterrupt), new_folder(str(tmp_path / 'out')) as part:
        assert os.listdir(part) == []
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
