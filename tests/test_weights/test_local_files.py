# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What is said of files that do not exist."""

import os

import pytest

from mtkdrl_mm.engine.checkpoint_files import find_checkpoint
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.weights.local_files import missing_file


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A work dir with checkpoints, of which the last one is not the newest."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'runs [1]'  # glob's special characters
    folder.mkdir()
    for age, name in enumerate(('best_epoch_1.pth', 'epoch_2.pth', 'epoch_1.pth', 'notes.txt')):
        (folder / name).touch()
        os.utime(folder / name, (1_700_000_000 - age,) * 2)
    (folder / 'last_checkpoint').write_text('/elsewhere/epoch_2.pth')
    return folder


def test_a_folder_has_a_last_checkpoint(run, tmp_path):
    last = 'Checkpoint: "runs [1]" is a folder; its last checkpoint is "runs [1]/epoch_2.pth".'
    assert missing_file('runs [1]', 'checkpoint') == last
    # As every tool says it that reads one.
    with pytest.raises(InputError) as error:
        find_checkpoint('runs [1]', str(tmp_path))
    assert str(error.value) == last
    (run / 'last_checkpoint').unlink()
    newest = 'is a folder; its last checkpoint is "runs [1]/best_epoch_1.pth".'
    assert missing_file('runs [1]', 'checkpoint').endswith(newest)
    (tmp_path / 'empty').mkdir()
    none = 'Teacher "a": "empty" is a folder; it has no checkpoint.'
    assert missing_file('empty', 'teacher "a"') == none


@pytest.mark.parametrize(
    ('name', 'others'),
    [
        (
            'runs [1]/epoch_3.pth',
            ' Did you mean "runs [1]/epoch_2.pth" or "runs [1]/epoch_1.pth" or '
            '"runs [1]/best_epoch_1.pth"?',
        ),
        ('runs [1]/last.pth', ' "runs [1]" has best_epoch_1.pth, epoch_2.pth, epoch_1.pth.'),
        ('runs [1]/weights.npy', ''),
        ('nowhere/epoch_2.pth', ''),
        ('epoch_2.pth', ''),
    ],
)
def test_a_missing_file_has_neighbours(run, name, others):
    assert (
        missing_file(name, 'checkpoint') == f'Checkpoint: the file "{name}" does not exist.{others}'
    )


def test_what_exists_and_what_is_no_path(run, monkeypatch):
    assert missing_file('runs [1]/epoch_1.pth', 'checkpoint') is None
    assert missing_file('https://example.org/no.pth', 'checkpoint') is None
    monkeypatch.setenv('HOME', str(run))
    assert missing_file('~/epoch_1.pth', 'checkpoint') is None
