# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A store that is written while a training runs its teachers."""

import logging
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.logging import MMLogger
from PIL import Image
from test_teacher_outputs.stores import contents
from torch.multiprocessing.spawn import start_processes

from mtkdrl_mm.teacher_outputs import StoreReader
from mtkdrl_mm.utils import InputError

from .conftest import LOSSLESS, assert_equal


def write(root, **kwargs):
    return dict(root=root, views=2, write=True, **{**LOSSLESS, **kwargs})


def test_a_view_is_stored_once_it_has_been_passed(connect, fill, store, run_epoch, lines, runs):
    model, loader, filling = connect(write(store))
    assert lines[-1][1].endswith(' KiB per image and view; 0 of 2 views are complete and read.')
    runs.clear()
    first, carried = run_epoch(model, loader, 0)
    assert len(runs) == 6
    assert all(one.row is None for one in carried.values())
    filling.finish(0)
    assert not os.path.exists(os.path.join(store, 'a', 'view_000'))
    filling.finish(1)
    assert lines[-1] == (logging.INFO, f'Teachers: view 0 is stored in "{store}".')
    assert not os.path.exists(os.path.join(store, 'journals'))
    filling.finish(1)
    second, _ = run_epoch(model, loader, 1)
    filling.finish(2)
    # From now on it is read, also by this training.
    runs.clear()
    for epoch, before in ((2, first), (3, second)):
        again, carried = run_epoch(model, loader, epoch)
        assert_equal(again, before)
        assert all(one.row is not None for one in carried.values())
    assert runs == []
    # It is the store that the tool would have written, byte for byte.
    assert contents(store) == contents(fill(store + '_by_tool'))


@pytest.mark.parametrize(
    'form', [{}, dict(maps='projected', map_channels=4, embedding_channels=5), dict(maps='pooled')]
)
def test_the_student_sees_the_same_numbers_whether_read_or_not(connect, store, run_epoch, form):
    form = dict(logits='float16', **form)
    model, loader, filling = connect(write(store, **form))
    live, _ = run_epoch(model, loader, 0)
    filling.finish(1)
    read, carried = run_epoch(model, loader, 2)
    assert all(one.row is not None for one in carried.values())
    assert_equal(live, read)


def test_what_no_batch_contained_is_computed(connect, store, run_epoch, fill, lines, runs):
    model, loader, filling = connect(write(store), drop_last=True)
    outputs, _ = run_epoch(model, loader, 0)
    assert len(outputs) == 20
    runs.clear()
    filling.finish(1)
    assert sum(runs) == 2
    message = 'Teachers: running on images of view 0 that were in no batch: 2.'
    assert (logging.INFO, message) in lines
    assert contents(store) == contents(fill(store + '_by_tool', only=[0]))


def test_rows_of_a_killed_training_are_used(connect, store, run_epoch, fill, runs):
    """A resumed training has passed the first images of the view before."""
    model, loader, _ = connect(write(store))
    loader.batch_sampler.set_position(7, 0)
    for batch in list(loader)[:3]:
        data = model.data_preprocessor(batch, True)
        model.teachers(data['inputs'], data['data_samples'])
    (journal,) = (Path(store) / 'journals').iterdir()
    with journal.open('ab') as file:
        file.write(b'half a row')
    model, loader, filling = connect(write(store))
    loader.batch_sampler.set_position(7, 0, images_done=12)
    for batch in loader:
        data = model.data_preprocessor(batch, True)
        model.teachers(data['inputs'], data['data_samples'])
    assert len(list((Path(store) / 'journals').iterdir())) == 2
    runs.clear()
    filling.finish(1)
    assert runs == []
    expected = contents(fill(store + '_by_tool', only=[0]))
    found = {name: data for name, data in contents(store).items() if 'journals' not in name}
    assert found == expected


def test_a_training_reads_what_another_one_has_stored(connect, store, run_epoch, fill, runs):
    fill(only=[0])
    model, loader, filling = connect(write(store))
    runs.clear()
    _, carried = run_epoch(model, loader, 0)
    assert runs == [] and all(one.row is not None for one in carried.values())
    filling.finish(1)
    # One part is lost: its images are computed, and the others are read.
    os.remove(os.path.join(store, 'b/view_000/part_0003.safetensors'))
    model, loader, filling = connect(write(store))
    runs.clear()
    _, carried = run_epoch(model, loader, 0)
    computed = sorted(one.sample for one in carried.values() if one.row is None)
    assert computed == [12, 13, 14, 15]
    filling.finish(1)
    assert StoreReader(store, ['a', 'b']).missing(0) == []


def test_the_seed_of_an_existing_store(connect, fill, store):
    fill(seed=4)
    _, loader, _ = connect(write(store))
    assert loader.batch_sampler.view_seed == 4
    _, loader, _ = connect(write(store + '_new'))
    assert loader.batch_sampler.view_seed == 0
    with pytest.raises(InputError, match='another augmentation seed: 4 there, 5 here'):
        connect(write(store, seed=5))


def test_other_teachers_have_other_journals(connect, tmp_path, make_teachers):
    """Also if they differ in the last one of many."""
    identities = []
    for number, names in enumerate(('abcde', 'abcdf', 'abcde', 'bacde')):
        _, _, filling = connect(write(str(tmp_path / str(number))), names=names)
        identities.append(filling._journal(0)._stem)
    assert len(set(identities)) == 3 and identities[0] == identities[2]


def test_space_is_needed_for_the_journal_too(connect, store, monkeypatch):
    needed = []
    monkeypatch.setattr(
        'mtkdrl_mm.engine.write_through.check_free_space', lambda *args: needed.append(args)
    )
    _, _, filling = connect(write(store))
    total = sum(filling.writer.bytes_needed().values())
    assert needed == [(store, total + total // 2)]


def test_a_full_disk_ends_the_writing_and_not_the_training(connect, store, run_epoch, lines):
    model, loader, filling = connect(write(store))

    def full(*args):
        raise InputError('"x" cannot be written: No space left on device.')

    filling._journal(0).append = full
    outputs, _ = run_epoch(model, loader, 0)
    assert len(outputs) == 22
    warnings = [message for level, message in lines if level == logging.WARNING]
    assert warnings == [
        '"x" cannot be written: No space left on device. The training goes on, with running '
        'teachers where nothing is stored. To store the rest, mend this and resume.'
    ]
    filling.finish(1)
    assert len(filling.writer.missing(0)) == 6
    # The next training has the space, and stores it.
    model, loader, filling = connect(write(store))
    assert_equal(run_epoch(model, loader, 0)[0], outputs)
    filling.finish(1)
    assert filling.writer.missing(0) == {}


def test_what_is_not_finite_is_not_stored(connect, store, run_epoch, lines):
    model, loader, filling = connect(write(store))
    with torch.no_grad():
        model.teachers.live[0].network.head.fc.bias[2] = float('nan')
    run_epoch(model, loader, 0)
    filling.finish(1)
    (warning,) = [message for level, message in lines if level == logging.WARNING]
    assert warning.startswith('`logits` for part 0 of view 0 of teacher "a" holds 4 values that')
    assert len(filling.writer.missing(0)) == 6


def test_checksums_are_compared_with_every_sample(connect, fill, store, run_epoch, photos):
    """While a store is written, all pixels are looked at."""
    fill(augment=[], only=[0])
    model, loader, _ = connect(write(store), augment=[])
    path = sorted(photos.rglob('*.png'))[7]
    image = Image.open(path)
    image.putpixel((3, 3), tuple(255 - value for value in image.getpixel((3, 3))))
    image.save(path)
    with pytest.raises(InputError, match=rf'The pixels of view 0 of image "{path}" are not those'):
        run_epoch(model, loader, 0)


# -- Several processes --------------------------------------------------------------------------


def run_processes(function, *args):
    start_processes(_process, (function, args), nprocs=2, start_method='fork')


def _process(rank, function, args):
    init = f'file://{args[0]}/group'
    dist.init_process_group('gloo', init_method=init, rank=rank, world_size=2)
    MMLogger.get_instance(f'rank_{rank}', log_level='ERROR')
    function(rank, *args)


def train_together(rank, folder, connect, run_epoch, broken):
    model, loader, filling = connect(write(f'{folder}/store'))
    if rank == 1 and broken:

        def fail(*args):
            raise InputError('"x" cannot be written: No space left on device.')

        filling.writer.write_part = fail
    warnings = []
    filling._warn = warnings.append
    outputs, _ = run_epoch(model, loader, 0)
    filling.finish(1)
    torch.save((sorted(outputs), warnings), f'{folder}/rank_{rank}.pth')


@pytest.mark.parametrize('broken', [False, True])
def test_processes_store_what_each_has_seen(connect, run_epoch, fill, tmp_path, store, broken):
    run_processes(train_together, str(tmp_path), connect, run_epoch, broken)
    (one, first), (two, second) = (torch.load(tmp_path / f'rank_{rank}.pth') for rank in (0, 1))
    assert len(one) == len(two) == 11 and not set(one) & set(two)
    expected = contents(fill(store + '_by_tool', only=[0]))
    found = contents(store)
    if not broken:
        assert found == expected and first == second == []
        return
    # The other process does its share; the main process, whose log is read, says why.
    parts = sorted(name[-16:-12] for name in found if name.startswith('inputs/view_000'))
    assert parts == ['0000', '0002', '0004']
    assert first == ['"x" cannot be written: No space left on device.']
    assert any('journals' in name for name in found)


def write_apart(rank, folder, connect):
    with pytest.raises(InputError) as caught:
        connect(write(f'{folder}/store_{rank}'))
    torch.save(str(caught.value), f'{folder}/rank_{rank}.pth')


def test_processes_must_share_the_store(connect, tmp_path, monkeypatch):
    """On disks of their own, each would store its share, and the store would never be whole."""
    monkeypatch.setattr('mtkdrl_mm.utils.distributed._SECONDS_TO_APPEAR', 0.1)
    run_processes(write_apart, str(tmp_path), connect)
    host = socket.gethostname()
    for rank in (0, 1):
        assert torch.load(tmp_path / f'rank_{rank}.pth') == (
            f'The store that is written must be in a folder that all processes share, but process '
            f'1 on "{host}" does not see what process 0 on "{host}" writes to '
            f'"{tmp_path}/store_{rank}". Set a folder on a disk that all machines see.'
        )
    assert list((tmp_path / 'store_0').iterdir()) == []
