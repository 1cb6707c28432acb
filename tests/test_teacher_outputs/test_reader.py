# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Reading of rows: the right ones, with few open files, in workers, and never damaged ones."""

import errno
import multiprocessing
import os
import pickle
import shutil
import threading

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mtkdrl_mm.teacher_outputs import (
    StoreReader,
    StoreWriter,
    TensorSpec,
    inputs_folder,
    inputs_manifest,
    list_teachers,
    teacher_folder,
)
from mtkdrl_mm.teacher_outputs import reader as reader_module
from mtkdrl_mm.utils import InputError

from .stores import changed, manifest, run_with_mounts, values, write, write_part, write_store

A, B = manifest('a'), manifest('b', part_size=3, tensors=[TensorSpec('logits', (4,), 'float32')])


@pytest.fixture
def root(tmp_path):
    return write_store(str(tmp_path / 'store'), A, B)


def check_rows(rows, samples, view):
    """Compare with what the writer got, without a difference."""
    for of in (A, B):
        assert set(rows[of.teacher.name]) == {spec.name for spec in of.tensors}
        for name, expected in values(of, view, samples).items():
            array = rows[of.teacher.name][name]
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)


def open_files(reader):
    return {os.readlink(f'/proc/self/fd/{part.handle}') for part in reader._opened.values()}


def test_rows_of_any_samples(root):
    reader = StoreReader(root, ['a', 'b'])
    reader.check_complete()
    assert (reader.num_samples, reader.num_views) == (10, 2)
    for samples in ([0], [9], [3, 4, 3], list(range(10)), np.array([7, 2]), []):
        for view in (0, 1):
            check_rows(reader.read_rows(samples, view), list(samples), view)
            expected = values(reader.inputs, view, list(samples))['crc32']
            checksums = reader.read_checksums(samples, view)
            assert checksums.dtype == np.uint32
            assert checksums.tolist() == expected.tolist()


def test_each_sample_may_have_its_own_view(root):
    reader = StoreReader(root, ['a'])
    rows = reader.read_rows([5, 5, 2], [1, 0, 1])['a']['embedding']
    for row, (sample, view) in zip(rows, [(5, 1), (5, 0), (2, 1)]):
        np.testing.assert_array_equal(row, values(A, view, [sample])['embedding'][0])
    with pytest.raises(InputError, match='2 samples were given with 1 views'):
        reader.read_rows([5, 5], [1])


def test_packed_rows_are_the_same_bytes_every_time(root):
    reader = StoreReader(root, ['b', 'a'])
    assert [entry.teacher for entry in reader.layout.entries] == ['b', 'a', 'a', 'a']
    packed = reader.read_packed([8, 1], 1)
    assert packed.shape == (2, reader.layout.nbytes)
    one_by_one = [reader.read_packed([sample], 1) for sample in (8, 1)]
    assert packed.tobytes() == np.concatenate(one_by_one).tobytes()
    tensors = reader.layout.unpack(torch.from_numpy(packed))
    expected = values(A, 1, [8, 1])['map']
    np.testing.assert_array_equal(tensors['a']['map'].numpy(), expected)


def test_samples_and_views_that_do_not_exist(root):
    reader = StoreReader(root, ['a'])
    for samples, view, text in (
        ([1, 10], 0, 'has no sample 10: there are 10, from 0'),
        ([-1], 0, 'has no sample -1'),
        ([0], 2, 'has no view 2: there are 2, from 0'),
    ):
        with pytest.raises(InputError, match=text):
            reader.read_packed(samples, view)


def test_few_files_stay_open(root):
    reader = StoreReader(root, ['a', 'b'], max_open_files=2)
    for view in (0, 1):
        check_rows(reader.read_rows(list(range(10)), view), list(range(10)), view)
    last = os.path.join(root, 'b/view_001')
    assert open_files(reader) == {f'{last}/part_0002.safetensors', f'{last}/part_0003.safetensors'}
    reader.close()
    assert open_files(reader) == set()
    check_rows(reader.read_rows([1], 1), [1], 1)
    with pytest.raises(InputError, match='`max_open_files` must be at least 1, but is 0'):
        StoreReader(root, ['a'], max_open_files=0)


def test_the_limit_of_the_process_is_no_error(root, monkeypatch):
    reader = StoreReader(root, ['a', 'b'])
    real = os.open

    def limited(path, *args, **kwargs):
        if 'part_' in str(path) and len(reader._opened) >= 2:
            raise OSError(errno.EMFILE, 'Too many open files')
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, 'open', limited)
    check_rows(reader.read_rows(list(range(10)), 0), list(range(10)), 0)


@pytest.mark.parametrize('support', ['misses', 'partial', 'unsupported', 'absent'])
def test_rows_that_are_not_in_the_page_cache(root, monkeypatch, support):
    real = os.preadv
    calls = []

    def preadv(handle, buffers, position, flags=0):
        calls.append(flags)
        if flags and support == 'misses':
            raise BlockingIOError(errno.EAGAIN, 'not in the cache')
        if flags and support == 'unsupported':
            raise OSError(errno.EOPNOTSUPP, 'not supported')
        # As at the end of a page that is there; and interrupted reads are short as well.
        return real(handle, [buffers[0][:5]], position)

    if support == 'absent':
        monkeypatch.setattr(reader_module, '_NOWAIT', 0)
    reader = StoreReader(root, ['a', 'b'], max_open_files=3)
    monkeypatch.setattr(os, 'preadv', preadv)
    for view in (0, 1):
        check_rows(reader.read_rows(list(range(10)), view), list(range(10)), view)
    flagged = sum(bool(flags) for flags in calls)
    assert {'unsupported': flagged == 1, 'absent': flagged == 0}.get(support, flagged > 1)


def test_a_failing_disk_is_one_sentence(root, monkeypatch):
    reader = StoreReader(root, ['a'])

    def broken(*args):
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(os, 'preadv', broken)
    path = os.path.join(root, 'a/view_000/part_0000.safetensors')
    with pytest.raises(InputError) as error:
        reader.read_packed([0], 0)
    assert str(error.value) == f'"{path}" cannot be read: Input/output error.'


def test_a_flipped_bit_is_found_when_a_part_is_first_opened(root):
    path = os.path.join(root, 'a/view_000/part_0001.safetensors')
    with open(path, 'r+b') as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    reader = StoreReader(root, ['a'])
    reader.read_packed([0, 3, 8], 0)
    with pytest.raises(InputError) as error:
        reader.read_packed([4], 0)
    assert str(error.value) == (
        f'"{path}" is damaged: its "map" does not have its checksum. Remove it, and run the tool '
        'that wrote the store again: it writes what is missing.'
    )
    row = StoreReader(root, ['a'], verify=False).read_rows([7], 0)['a']['map']
    assert (row != values(A, 0, [7])['map']).sum() == 1


def test_checksums_are_compared_once(root, monkeypatch):
    calls = []
    real = reader_module.verify_part
    monkeypatch.setattr(
        reader_module, 'verify_part', lambda *args: (calls.append(args[1]), real(*args))
    )
    reader = StoreReader(root, ['a'], max_open_files=1)
    for _ in range(3):
        reader.read_packed([0, 4, 8], 0)
    assert sorted(calls) == [
        os.path.join(root, f'a/view_000/part_000{part}.safetensors') for part in range(3)
    ]


def test_missing_and_swapped_parts(root):
    folder = os.path.join(root, 'a', 'view_000')
    reader = StoreReader(root, ['a', 'b'])
    shutil.copy(f'{folder}/part_0000.safetensors', f'{folder}/part_0001.safetensors')
    with pytest.raises(InputError, match='holds part 0 of view 0 of teacher "a", and should hold'):
        reader.read_packed([4], 0)
    os.remove(f'{folder}/part_0001.safetensors')
    sentence = (
        f'"{folder}/part_0001.safetensors" does not exist: this view is not complete. Run the tool '
        'that writes the store again: it writes what is missing.'
    )
    for use in (lambda: reader.read_packed([4], 0), reader.check_complete):
        with pytest.raises(InputError) as error:
            use()
        assert str(error.value) == sentence
    assert reader.missing(0) == [f'{folder}/part_0001.safetensors']
    reader.check_complete([1])
    write(teacher_folder(root, 'a'), A)
    check_rows(reader.read_rows([4], 0), [4], 0)


def test_a_part_that_is_truncated_while_it_is_open(root):
    reader = StoreReader(root, ['a'])
    reader.read_packed([0], 0)
    path = os.path.join(root, 'a/view_000/part_0000.safetensors')
    os.truncate(path, os.path.getsize(path) - 100)
    with pytest.raises(InputError, match=r'part_0000\.safetensors" is damaged: it was truncated'):
        reader.read_packed([3], 0)
    logits = reader.read_rows([4], 0)['a']['logits']
    np.testing.assert_array_equal(logits, values(A, 0, [4])['logits'])


def test_after_an_error_the_next_rows_are_right(root, monkeypatch):
    reader = StoreReader(root, ['a', 'b'])
    os.remove(os.path.join(root, 'b/view_000/part_0002.safetensors'))
    monkeypatch.setattr(reader_module, '_NOWAIT', 0)
    for _ in range(2):
        with pytest.raises(InputError, match='does not exist'):
            reader.read_packed([0, 6], 0)
        check_rows(reader.read_rows([1, 9], 0), [1, 9], 0)


def test_stores_and_teachers_that_are_not_there(root, tmp_path):
    assert list_teachers(root) == ['a', 'b']
    assert list_teachers(str(tmp_path / 'nothing')) == []
    with pytest.raises(InputError, match='/nothing" does not exist'):
        StoreReader(str(tmp_path / 'nothing'), ['a'])
    with pytest.raises(InputError, match='holds no outputs of teacher "A"') as error:
        StoreReader(root, ['A'])
    assert str(error.value).endswith('Did you mean "a"? Known: "a", "b".')
    with pytest.raises(InputError, match='include one twice'):
        StoreReader(root, ['a', 'a'])
    os.rename(os.path.join(root, 'b'), os.path.join(root, 'c'))
    with pytest.raises(InputError, match='/c" holds outputs of teacher "b", not of teacher "c"'):
        StoreReader(root, ['c'])
    shutil.rmtree(os.path.join(root, 'inputs'))
    with pytest.raises(InputError, match='inputs" holds no stored outputs'):
        StoreReader(root, ['a'])
    shutil.copytree(os.path.join(root, 'a'), os.path.join(root, 'inputs'))
    with pytest.raises(InputError, match='holds outputs of teacher "a", not the checksums'):
        StoreReader(root, ['a'])


def test_a_teacher_of_other_inputs(root):
    write(teacher_folder(root, 'c'), changed(manifest('c'), views__seed=1))
    with pytest.raises(InputError, match=r'/c" were stored for other inputs .* than those in'):
        StoreReader(root, ['a', 'c'])


def test_check_against_a_training(root):
    reader = StoreReader(root, ['a', 'b'])
    expected = dict(a=manifest('a', part_size=7), b=manifest('b', libraries=dict(torch='2.2')))
    assert reader.check(expected) == [f'"{root}/b" was stored with torch 2.1.2; here it is 2.2.']
    expected['b'] = changed(expected['b'], teacher__weights_sha256='00' * 32)
    with pytest.raises(InputError, match=f'"{root}/b" was stored for teacher "b" with another'):
        reader.check(expected)
    with pytest.raises(InputError, match='does not read teacher "c"'):
        reader.check(dict(c=expected['a']))


class Rows(Dataset):
    """One sample of view 1, as a data set with a reader returns it."""

    def __init__(self, reader):
        self.reader = reader

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.from_numpy(self.reader.read_packed([index], 1)[0])


@pytest.mark.parametrize('opened', [False, True])
def test_forked_data_workers(root, opened):
    reader = StoreReader(root, ['a', 'b'])
    if opened:
        reader.read_packed(list(range(10)), 1)
    loader = DataLoader(Rows(reader), batch_size=5, num_workers=2, multiprocessing_context='fork')
    for _ in range(2):
        batches = torch.cat(list(loader))
        check_rows(
            {
                teacher: {name: tensor.numpy() for name, tensor in tensors.items()}
                for teacher, tensors in reader.layout.unpack(batches).items()
            },
            list(range(10)),
            1,
        )
    # What the workers verified is known here, and to the workers of the next epoch.
    assert reader._verified.sum(dim=(0, 2)).tolist() == [0, 3 + 4]


def test_pickles_hold_no_open_files(root):
    reader = StoreReader(root, ['a', 'b'])
    reader.read_packed([0, 9], 0)
    copy = pickle.loads(pickle.dumps(reader))
    assert open_files(copy) == set()
    check_rows(copy.read_rows([2, 9], 1), [2, 9], 1)


def read_in_process(reader, queue):
    queue.put((reader.read_rows([0, 9], 1), len(open_files(reader))))


@pytest.mark.slow
def test_spawned_processes(root):
    reader = StoreReader(root, ['a', 'b'])
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    process = context.Process(target=read_in_process, args=(reader, queue))
    process.start()
    rows, count = queue.get(timeout=300)
    process.join()
    check_rows(rows, [0, 9], 1)
    assert count == 4
    assert reader._verified.sum(dim=(0, 2)).tolist() == [0, 4]


def test_a_fork_while_a_thread_reads(root):
    reader = StoreReader(root, ['a', 'b'])
    with reader._lock:  # as a reading thread of the parent holds it
        process = multiprocessing.get_context('fork').Process(
            target=lambda: os._exit(len(reader.read_packed([0, 9], 1)))
        )
        process.start()
        process.join(20)
        process.kill()  # if it waits for the lock
        process.join()
    assert process.exitcode == 2


def test_threads_share_a_reader(root):
    reader = StoreReader(root, ['a', 'b'], max_open_files=2)
    failures = []

    def read(seed):
        draw = np.random.default_rng(seed)
        try:
            for _ in range(200):
                samples = draw.integers(0, 10, 3).tolist()
                check_rows(reader.read_rows(samples, seed % 2), samples, seed % 2)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_read_only_folder(root):
    def test():
        with pytest.raises(OSError, match=r'Read-only|denied'), open(f'{root}/x', 'w'):
            pass
        reader = StoreReader(root, ['a', 'b'])
        check_rows(reader.read_rows([0, 9], 1), [0, 9], 1)
        assert write(teacher_folder(root, 'a'), A).missing(0) == []
        with pytest.raises(InputError, match=r'/c" cannot be written: (Read-only|Permission)'):
            write(teacher_folder(root, 'c'), manifest('c'))

    if os.geteuid() == 0:  # whom permissions do not bind
        run_with_mounts([f'mount --bind {root} {root}', f'mount -o remount,ro,bind {root}'], test)
        return
    folders = [path for path, _, _ in os.walk(root)]
    for path in folders:
        os.chmod(path, 0o555)
    try:
        test()
    finally:
        for path in folders:
            os.chmod(path, 0o755)


def test_which_samples_are_stored_while_parts_are_added(tmp_path):
    root = str(tmp_path)
    writers = [
        StoreWriter(inputs_folder(root), inputs_manifest(A.dataset, A.views, 5, A.libraries)),
        StoreWriter(teacher_folder(root, 'a'), A),
        StoreWriter(teacher_folder(root, 'b'), B),
    ]
    reader = StoreReader(root, ['a', 'b'])

    def stored(view=0):
        return [sample for sample in range(10) if reader.is_stored(sample, view)]

    assert stored() == []
    write_part(writers[0], 0, 0)  # samples 0 to 4
    write_part(writers[1], 0, 1)  # samples 4 to 7
    assert stored() == []
    write_part(writers[2], 0, 1)  # samples 3 to 5
    assert stored() == [4] and stored(view=1) == []
    check_rows(reader.read_rows([4], 0), [4], 0)
    write_part(writers[0], 0, 1)
    assert stored() == [4, 5]
    for writer in writers:
        for part in writer.missing(0):
            write_part(writer, 0, part)
    assert stored() == list(range(10)) and stored(view=1) == []
    check_rows(reader.read_rows(list(range(10)), 0), list(range(10)), 0)
    # What is open is not looked up again.
    shutil.rmtree(os.path.join(root, 'a', 'view_000'))
    assert stored() == list(range(10))


def test_the_checksums_alone(root):
    reader = StoreReader(root, ())
    assert (reader.layout.nbytes, reader.num_samples) == (0, 10)
    expected = values(reader.inputs, 1, [7, 2])['crc32']
    assert reader.read_checksums([7, 2], 1).tolist() == expected.tolist()
    assert reader.missing(0) == []
