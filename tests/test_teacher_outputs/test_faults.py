# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Killed writers, two writers and full disks, with real processes and disks."""

import glob
import itertools
import multiprocessing
import os
import random
import resource
import signal
import time

import numpy as np
import pytest
from waiting import patience

from mtkdrl_mm.teacher_outputs import Manifest, StoreReader, StoreWriter, TensorSpec
from mtkdrl_mm.teacher_outputs.paths import teacher_folder
from mtkdrl_mm.utils import InputError

from .stores import (
    changed,
    contents,
    manifest,
    run_with_mounts,
    values,
    write,
    write_part,
    write_store,
)

FORK = multiprocessing.get_context('fork')
# Parts of 0.4 MiB: writing one takes about as long as starting a process.
LARGE = changed(
    manifest(),
    dataset__num_samples=1000,
    part_size=200,
    tensors=(TensorSpec('logits', (1000,), 'float16'), TensorSpec('x', (7,), 'float32')),
)
ARRAYS = {
    (view, part): values(LARGE, view, list(LARGE.samples(part)))
    for view in range(2)
    for part in range(LARGE.num_parts)
}


def write_on_and_on(folder):
    """Write what is missing, and then everything again, until it is killed."""
    writer = StoreWriter(folder, LARGE)
    keys = [(view, part) for view in range(2) for part in writer.missing(view)]
    for view, part in itertools.chain(keys, itertools.cycle(ARRAYS)):
        writer.write_part(view, part, ARRAYS[view, part])


def finish(folder):
    writer = StoreWriter(folder, LARGE)
    for view in range(2):
        for part in writer.missing(view):
            writer.write_part(view, part, ARRAYS[view, part])


def being_written(folder, pid):
    """Temporary files of a process."""
    return glob.glob(os.path.join(folder, '**', f'*.{pid}.*.tmp'), recursive=True)


def test_killed_writers(tmp_path):
    peace = str(tmp_path / 'peace')
    finish(peace)
    whole = contents(peace)
    folder = str(tmp_path / 'store')
    drawn = random.Random()
    leftovers = kills = 0
    end = time.monotonic() + patience(60)
    # Without a leftover no process was killed while it wrote, and the test shows nothing.
    while kills < 20 or (not leftovers and time.monotonic() < end):
        process = FORK.Process(target=write_on_and_on, args=(folder,))
        process.start()
        if kills % 2:  # at any time, also before it writes
            time.sleep(drawn.uniform(0.005, 0.08))
        else:  # while it writes, however late a busy machine lets it begin
            while not being_written(folder, process.pid) and time.monotonic() < end:
                pass
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        leftovers += len(being_written(folder, process.pid))
        for name, content in contents(folder).items():
            assert name.endswith('.tmp') or content == whole[name]
    assert leftovers
    finish(folder)
    assert contents(folder) == whole


def test_two_writers_and_a_reader(tmp_path):
    root = write_store(str(tmp_path / 'store'), LARGE)
    folder = teacher_folder(root, 'a')
    whole = contents(folder)
    writers = [FORK.Process(target=write_on_and_on, args=(folder,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    end = time.monotonic() + 0.5
    reader = StoreReader(root, ['a'], max_open_files=1)
    while time.monotonic() < end:
        samples = [random.randrange(1000) for _ in range(8)]
        rows = reader.read_rows(samples, 1)['a']['logits']
        np.testing.assert_array_equal(rows, values(LARGE, 1, samples)['logits'])
        reader._verified.zero_()
        reader._headers.clear()
    for writer in writers:
        assert writer.is_alive()
        writer.kill()
        writer.join()
    finish(folder)
    assert contents(folder) == whole


def test_writers_that_start_at_once_agree_on_one_manifest(tmp_path):
    folder = str(tmp_path / 'store')
    start = FORK.Barrier(4)

    def run(number):
        of = changed(LARGE, views__seed=number)
        start.wait()
        try:
            StoreWriter(folder, of)
        except InputError:
            os._exit(1)
        os._exit(0)

    processes = [FORK.Process(target=run, args=(number,)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    assert sorted(codes) == [0, 1, 1, 1]
    assert Manifest.read(folder).views.seed == codes.index(0)
    assert os.listdir(folder) == ['manifest.json', *[f for f in os.listdir(folder) if '.tmp' in f]]


@pytest.fixture
def disk(tmp_path):
    """Folder for a file system of 1 MiB, and the command that mounts it."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    return folder, f'mount -t tmpfs -o size=1m tmpfs {folder}'


def test_a_full_disk(disk, tmp_path):
    folder = str(disk[0] / 'a')
    finish(str(tmp_path / 'peace'))
    whole = contents(tmp_path / 'peace')

    def test():
        writer = StoreWriter(folder, LARGE)
        with pytest.raises(InputError, match=r'need 3\.9 MiB more, but only .* KiB are free'):
            writer.check_free_space()
        writer.write_part(0, 0, ARRAYS[0, 0])
        writer.write_part(0, 1, ARRAYS[0, 1])
        with pytest.raises(InputError) as error:
            writer.write_part(0, 2, ARRAYS[0, 2])
        assert str(error.value).startswith(
            f'"{folder}/view_000/part_0002.safetensors" cannot be written: No space left on device '
        )
        assert writer.missing(0) == [2, 3, 4]
        assert all(content == whole[name] for name, content in contents(folder).items())
        assert os.system(f'mount -o remount,size=8m {disk[0]}') == 0
        finish(folder)
        assert contents(folder) == whole

    run_with_mounts([disk[1]], test)


def test_no_space_for_the_manifest(disk):
    folder = disk[0]

    def test():
        with pytest.raises(OSError, match='No space'), open(folder / 'full', 'wb', 0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(InputError, match=r'be written: No space left on device \(0\.0 MiB'):
            StoreWriter(str(folder), LARGE)
        assert os.listdir(folder) == ['full']

    run_with_mounts([disk[1]], test)


def test_a_limit_of_the_file_size(tmp_path):
    folder = str(tmp_path / 'a')
    path = tmp_path / 'message'

    def run():
        writer = StoreWriter(folder, LARGE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
        try:
            writer.write_part(0, 0, ARRAYS[0, 0])
        except InputError as error:
            path.write_text(str(error))

    process = FORK.Process(target=run)
    process.start()
    process.join()
    assert path.read_text() == (
        f'"{folder}/view_000/part_0000.safetensors" cannot be written: File too large. The '
        'complete parts are kept; make space or access, and run the same again.'
    )
    assert contents(folder).keys() == {'manifest.json'}


def test_a_store_without_hard_links(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(1, 'Operation not permitted')

    monkeypatch.setattr(os, 'link', refuse)
    folder = str(tmp_path / 'a')
    writer = write(folder, manifest())
    assert writer.missing(0) == []
    assert sorted(os.listdir(folder)) == ['manifest.json', 'view_000', 'view_001']
    assert not manifest('b').write(folder)
    write_part(writer, 0, 0)
