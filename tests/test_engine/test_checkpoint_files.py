# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Which checkpoint a work dir is resumed from."""

import os
import shutil

import pytest
import torch

from mtkdrl_mm.engine import checkpoint_files
from mtkdrl_mm.engine.checkpoint_files import (
    find_checkpoint,
    find_resumable,
    forget_earlier_training,
    holds_earlier_training,
    name_last_checkpoint,
    note_earlier_training,
)
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.weights.local_files import last_checkpoint_named


def save(folder, name, epoch=1, age=0):
    path = folder / name
    torch.save(dict(meta=dict(epoch=epoch, iter=9), state_dict={'w': torch.ones(1)}), path)
    stamp = 1_700_000_000 - age
    os.utime(path, (stamp, stamp))
    return str(path)


@pytest.fixture
def work_dir(tmp_path):
    folder = tmp_path / 'run [1]'  # glob's special characters
    folder.mkdir()
    save(folder, 'epoch_1.pth', 1, age=20)
    name_last_checkpoint(str(folder), save(folder, 'epoch_2.pth', 2, age=10))
    return folder


def found(folder):
    path, contents = find_resumable(str(folder))
    return os.path.basename(path), contents['meta']['epoch']


@pytest.fixture
def logged(monkeypatch):
    """What is written to the log."""
    lines = []
    monkeypatch.setattr(checkpoint_files, 'print_log', lambda text, *a, **k: lines.append(text))
    return lines


def test_the_one_that_is_named(work_dir):
    save(work_dir, 'epoch_3.pth', 3)
    assert found(work_dir) == ('epoch_2.pth', 2)


def test_an_earlier_training_is_not_taken_for_the_last_one(work_dir, tmp_path):
    folder = str(work_dir)
    assert not note_earlier_training(str(tmp_path))  # without checkpoints
    assert note_earlier_training(folder) and holds_earlier_training(folder)
    last = str(work_dir / 'epoch_2.pth')
    with pytest.raises(InputError) as error:
        find_resumable(folder)
    assert str(error.value) == (
        f'The checkpoints in "{folder}" are of an earlier training: the one that was begun there '
        'last, without --resume, has saved none. To continue the earlier one, name its checkpoint '
        f'(--resume {last}, if it is the last); to begin anew, omit --resume.'
    )
    assert find_checkpoint(last, folder).path == last
    # Until a training is resumed there, or has saved a checkpoint of its own.
    forget_earlier_training(folder)
    assert found(work_dir) == ('epoch_2.pth', 2)
    note_earlier_training(folder)
    name_last_checkpoint(folder, save(work_dir, 'epoch_1.pth', 1))
    assert found(work_dir) == ('epoch_1.pth', 1) and not holds_earlier_training(folder)
    forget_earlier_training(folder)  # twice


@pytest.mark.parametrize('damage', ['truncated', 'empty', 'missing', 'other'])
def test_a_damaged_one_gives_way_to_the_newest_readable(work_dir, damage, logged):
    path = work_dir / 'epoch_2.pth'
    if damage == 'missing':
        path.unlink()
    elif damage == 'other':
        torch.save(dict(state_dict={}), path)
    else:
        path.write_bytes(path.read_bytes()[: 100 if damage == 'truncated' else 0])
    save(work_dir, 'interrupted_iter_3.pth', 0, age=30)
    assert found(work_dir) == ('epoch_1.pth', 1)
    (line,) = logged
    assert 'epoch_2.pth' in line and 'Resuming from the newest checkpoint that can be read' in line
    assert 'epoch_1.pth (epoch 1, iteration 9)' in line


@pytest.mark.parametrize('content', [None, '', '\n', b'\xff\xfe\x00'])
def test_without_a_readable_name_the_newest_is_taken(work_dir, content, logged):
    name = work_dir / 'last_checkpoint'
    if content is None:
        name.unlink()
    else:
        name.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert found(work_dir) == ('epoch_2.pth', 2)
    assert 'no readable file "last_checkpoint"' in logged[0] and 'epoch_2.pth' in logged[0]


def test_a_half_written_name_is_no_obstacle(work_dir):
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epo'))
    assert found(work_dir) == ('epoch_2.pth', 2)


def test_a_copied_work_dir_has_its_own_checkpoints(work_dir, tmp_path):
    copy = tmp_path / 'copy'
    shutil.copytree(work_dir, copy)
    save(work_dir, 'epoch_2.pth', 77)
    assert last_checkpoint_named(str(copy)) == str(copy / 'epoch_2.pth')
    assert found(copy) == ('epoch_2.pth', 2)


def test_a_checkpoint_elsewhere_that_is_named(work_dir, tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    name_last_checkpoint(str(work_dir), save(tmp_path / 'elsewhere', 'epoch_9.pth', 9))
    assert found(work_dir) == ('epoch_9.pth', 9)


def test_none(tmp_path):
    assert find_resumable(str(tmp_path)) is None
    assert last_checkpoint_named(str(tmp_path)) is None


def test_only_damaged_ones_stop(work_dir):
    for path in work_dir.glob('*.pth'):
        path.write_bytes(b'')
    with pytest.raises(
        InputError, match=r'No checkpoint in .* can be resumed\. .*epoch_2.*epoch_1'
    ):
        find_resumable(str(work_dir))
