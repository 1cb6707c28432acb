# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Computing and writing of what a store lacks."""

import os
import shutil
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.logging import MMLogger
from PIL import Image
from test_teacher_outputs.stores import contents
from torch.multiprocessing.spawn import start_processes

from mtkdrl_mm.engine import output_writer
from mtkdrl_mm.models import TeacherPool
from mtkdrl_mm.models.teachers import choose_mode
from mtkdrl_mm.teacher_outputs import (
    DatasetRecord,
    Manifest,
    StoreReader,
    TensorSpec,
    inputs_folder,
    teacher_folder,
)
from mtkdrl_mm.utils import InputError

from .conftest import expected_rows


@pytest.fixture
def runs(monkeypatch):
    """Numbers of images on which teachers were run, by teacher."""
    counts = {}
    original = TeacherPool.forward

    def forward(self, inputs, data_samples=None, names=None):
        for name in self.names if names is None else names:
            counts[name] = counts.get(name, 0) + len(inputs)
        return original(self, inputs, data_samples, names)

    monkeypatch.setattr(TeacherPool, 'forward', forward)
    return counts


@pytest.mark.parametrize('workers', [0, 2])
def test_a_lossless_store_holds_what_the_teachers_say(session, store, workers):
    writer = session(maps='full', workers=workers)
    assert writer.missing(0) == writer.missing(1) == {part: ('a', 'b') for part in range(6)}
    writer.write_missing()
    assert writer.missing(0) == writer.missing(1) == {}
    reader = StoreReader(store, ['a', 'b'])
    for view in (0, 1):
        for sample in (0, 3, 4, 21):
            pixels, outputs = expected_rows(writer.runner, sample, view)
            rows = reader.read_rows([sample], view)
            for name, output in outputs.items():
                for spec in reader.manifests[name].tensors:
                    tensor = getattr(output, spec.name).numpy()
                    np.testing.assert_array_equal(rows[name][spec.name], tensor)
            (checksum,) = reader.read_checksums([sample], view)
            assert checksum == zlib.crc32(pixels.numpy().tobytes())
    first, second = (reader.read_checksums(range(22), view) for view in (0, 1))
    assert len({*first.tolist(), *second.tolist()}) == 44
    names = {name: [spec.name for spec in m.tensors] for name, m in reader.manifests.items()}
    assert names == dict(a=['logits', 'embedding', 'feature_map'], b=['logits', 'embedding'])


def test_batches_workers_and_order_change_no_byte(session, tmp_path):
    roots = [str(tmp_path / name) for name in ('one', 'two')]
    session(roots[0]).write_missing()
    session(roots[1], batch_size=4, workers=2).write_missing(views=[1, 0])
    assert contents(roots[0]) == contents(roots[1])


def test_blended_images(session, store):
    writer = session(mixup=True)
    assert writer.blends and not session(store + '2').blends
    writer.write_missing(views=[0])
    reader = StoreReader(store, ['a'])
    plain = session(store + '2')
    for sample in (0, 20):
        _, outputs = expected_rows(writer.runner, sample, 0)
        logits = reader.read_rows([sample], 0)['a']['logits']
        np.testing.assert_array_equal(logits, outputs['a'].logits.numpy())
        _, alone = expected_rows(plain.runner, sample, 0)
        assert not np.array_equal(logits, alone['a'].logits.numpy())
    assert reader.inputs.views.blends['augments'][0]['type'] == 'Mixup'


def test_progress_and_batches_are_shown(session):
    writer = session()
    assert writer.num_missing_images() == 44
    done, seen = [], []
    writer.write_missing(done.append, [1], seen.append)
    assert sum(done) == 22 and max(done) == 4
    assert sorted(s for batch in seen for s in batch.samples) == list(range(22))
    assert {view for batch in seen for view in batch.views} == {1}
    labels = [int(label) for batch in seen for label in batch.labels]
    assert sorted(labels) == sorted(number % 5 for number in range(22))
    assert writer.num_missing_images() == 22


def test_what_exists_is_not_computed_again(session, runs, store):
    session().write_missing()
    runs.clear()
    writer = session()
    runs.clear()  # the first batch shows the shapes
    writer.write_missing()
    assert runs == {}
    os.remove(os.path.join(store, 'b/view_001/part_0002.safetensors'))
    assert writer.missing(1) == {2: ('b',)}
    writer.write_missing()
    assert runs == dict(b=4)
    # A part of the inputs alone needs no teacher.
    os.remove(os.path.join(store, 'inputs/view_000/part_0005.safetensors'))
    assert writer.missing(0) == {5: ()}
    runs.clear()
    writer.write_missing()
    assert runs == {} and writer.missing(0) == {}


def test_an_interrupted_writing_goes_on(session, tmp_path, runs):
    whole, broken = str(tmp_path / 'whole'), str(tmp_path / 'broken')
    session(whole).write_missing()

    def interrupt(count):
        interrupt.done += count
        if interrupt.done > 9:
            raise KeyboardInterrupt

    interrupt.done = 0
    writer = session(broken)
    with pytest.raises(KeyboardInterrupt):
        writer.write_missing(interrupt)
    left = writer.num_missing_images()
    assert 44 - 12 <= left <= 44 - 4
    writer = session(broken)
    runs.clear()
    writer.write_missing()
    assert runs == dict(a=left, b=left)
    assert contents(whole) == contents(broken)


def test_a_part_that_another_job_has_written_is_left_out(session, runs):
    """Between the look at what is missing and the turn of the part."""
    writer, other = session(), session()
    share = writer._my_share([0])
    other.write_missing(views=[0])
    runs.clear()
    done = []
    writer._write_parts(0, list(share[0]), ('a', 'b'), done.append, None)
    assert runs == {} and sum(done) == 22


@pytest.mark.parametrize(
    ('row_bytes', 'samples', 'expected'),
    [
        (4, 10, 64),  # small sets: parts of 64 samples
        (4, 1000, 125),  # eight parts
        (4, 10**6, 16384),
        (8 * 2**10, 10**6, 8192),  # 64 MiB
        (2**21, 10**6, 64),
    ],
)
def test_samples_per_part(row_bytes, samples, expected):
    specs = dict(
        a=(TensorSpec('logits', (1,), 'float32'),),
        b=(TensorSpec('logits', (row_bytes // 4,), 'float32'),),
    )
    assert output_writer._part_size(specs, DatasetRecord('', samples)) == expected


def test_bytes_and_free_space(session, monkeypatch):
    writer = session()
    needed = writer.bytes_needed()
    assert list(needed) == ['a', 'b', 'inputs']
    writer.check_free_space()
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=0))
    with pytest.raises(InputError, match=r'need .* more, but only 0 bytes are free on that disk'):
        writer.check_free_space()
    writer.write_missing()
    assert set(writer.bytes_needed().values()) == {0}
    writer.check_free_space()


# -- Several teachers and jobs ------------------------------------------------------------------


def test_a_teacher_is_added(session, store, runs):
    session(teachers=['a']).write_missing()
    assert Manifest.find(teacher_folder(store, 'b')) is None
    before = contents(store)
    writer = session()
    assert writer.missing(0) == {part: ('b',) for part in range(6)}
    runs.clear()
    writer.write_missing()
    assert runs == dict(b=44)
    after = contents(store)
    assert {path: after[path] for path in before} == before
    assert StoreReader(store, ['b', 'a']).missing(0) == []


def repaint(photos):
    """Change one pixel of one image."""
    path = sorted(photos.rglob('*.png'))[3]
    image = Image.open(path)
    image.putpixel((16, 16), tuple(255 - value for value in image.getpixel((16, 16))))
    image.save(path)


@pytest.mark.parametrize('interrupted', [False, True])
def test_a_teacher_that_is_added_must_see_the_same_pixels(session, store, photos, interrupted):
    augment = [dict(type='RandomFlip', prob=0.5)]
    session(teachers=['a'], augment=augment).write_missing()
    repaint(photos)
    if interrupted:  # or one whose part was lost
        os.remove(os.path.join(store, 'a/view_000/part_0000.safetensors'))
    writer = session(teachers=['a' if interrupted else 'b'], augment=augment)
    with pytest.raises(InputError) as error:
        writer.write_missing(views=[0])
    assert str(error.value) == (
        f'The pixels of 1 of 4 images in part 0 of view 0 are not those of "{store}/inputs", the '
        'first of them image number 3. An image file, the pipeline, or what decodes images has '
        'changed: restore it, or store all teachers again in another folder.'
    )


def test_what_belongs_to_another_training(session, make_teachers, photos):
    session().write_missing(views=[0])
    with pytest.raises(InputError, match='with another number of views: 2 there, 3 here'):
        session(views=3)
    with pytest.raises(InputError, match=r'choice of tensors \(`logits`\): .*float32.*float16'):
        session(logits='float16')
    with pytest.raises(InputError, match='with another augmentation seed: 0 there, 4 here'):
        session(seed=4)
    with pytest.raises(InputError, match='with another data pipeline: '):
        session(augment=())
    with pytest.raises(InputError, match=r'with another setting of blends'):
        session(mixup=True)
    weights = Path(make_teachers('a')[0]['checkpoint'])
    state = torch.load(weights)
    state['head.fc.bias'] += 1
    torch.save(state, weights)
    with pytest.raises(InputError, match=r'teacher "a" with another version of the weights \(sha'):
        session()
    next(photos.rglob('*.png')).unlink()
    with pytest.raises(InputError, match='with another number of samples: 22 there, 21 here'):
        session()


def test_the_seed_of_the_store_is_taken(session, store):
    session(seed=4).write_missing(views=[0])
    before = contents(store)
    writer = session()
    assert writer.runner.seed == 4
    writer.write_missing(views=[0])
    assert contents(store) == before


def modes(writer):
    return {teacher.name: str(teacher.mode) for teacher in writer.runner.pool}


def test_all_jobs_run_a_teacher_in_the_same_mode(session, store, monkeypatch):
    """It is no matter of time, and half precision that nobody has chosen is not stored for ever."""

    def never(*args):
        raise AssertionError('nothing may be timed')

    monkeypatch.setattr(choose_mode, '_interleaved', never)
    monkeypatch.setattr(choose_mode, 'cpu_has_bfloat16', lambda: True)
    # The convolutional one is folded; the other has nothing to fold.
    expected = dict(a='folded, channels_last', b='eager')
    assert modes(session(store + '2', inference=None)) == expected
    # A store that was begun in another mode is finished in it.
    folded = dict(fold_bn=True, channels_last=None, dtype=None)
    first = session(inference=folded)
    assert modes(first) == dict(a='folded', b='eager')
    first.write_missing(views=[0])
    before = contents(store)
    shutil.rmtree(os.path.join(store, 'a', 'view_000'))
    other = session(inference=None)
    assert modes(other) == modes(first)
    other.write_missing(views=[0])
    assert contents(store) == before
    # One that the config forbids is not taken.
    with pytest.raises(InputError, match=r'mode of inference \(`mode\.folded`\): True there, Fal'):
        session(inference='eager')


def test_a_teacher_of_classes_in_another_order(session, make_teachers, store):
    (teacher,) = make_teachers('a')
    classes = session().runner.dataset.metainfo['classes']
    shutil.rmtree(store)
    contents = dict(
        state_dict=torch.load(teacher['checkpoint']),
        meta=dict(dataset_meta=dict(classes=classes[::-1])),
    )
    torch.save(contents, teacher['checkpoint'])
    with pytest.raises(InputError, match='The classes of teacher "a" are not those of the data'):
        session()
    assert not os.path.exists(os.path.join(store, 'a'))


def test_jobs_that_start_together_agree_on_the_parts(session, monkeypatch):
    """They would cut them by the size of their own teachers' outputs."""
    session(teachers=['a'])
    monkeypatch.setattr(output_writer, '_MIN_PART_SIZE', 7)
    writer = session(teachers=['b'])
    assert writer.part_size == writer.writers['b'].manifest.part_size == 4
    writer.write_missing()
    assert writer.missing(0) == {}


# -- Processes that run together ----------------------------------------------------------------


def processes(function, count, *args):
    """Run a function with its rank in forked processes of one group."""
    start_processes(_process, (count, function, args), nprocs=count, start_method='fork')


def _process(rank, count, function, args):
    folder = args[0]
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/group', rank=rank, world_size=count
    )
    MMLogger.get_instance(f'rank_{rank}', log_level='ERROR')
    function(rank, *args)


def write_share(rank, folder, session):
    writer = session()
    written = []
    writer.inputs.write_part, original = (
        lambda view, part, tensors: written.append((view, part)) or original(view, part, tensors),
        writer.inputs.write_part,
    )
    if rank == 1:
        # It looks late, when the other process has written some of its parts.
        writer.missing = lambda view: {5: ('a', 'b')}
    count = writer.num_missing_images()
    writer.write_missing()
    torch.save((written, count), f'{folder}/share_{rank}.pth')


def test_processes_divide_the_parts_without_a_rest(session, tmp_path):
    processes(write_share, 2, str(tmp_path), session)
    (one, first), (two, second) = (torch.load(tmp_path / f'share_{rank}.pth') for rank in (0, 1))
    # Parts 0, 2, 4 and 1, 3, 5 of two views.
    assert sorted(one + two) == [(view, part) for view in (0, 1) for part in range(6)]
    assert {part for _, part in one} == {0, 2, 4}
    assert (first, second) == (2 * 12, 2 * 10)


def fail_to_look(rank, folder, session):
    writer = session()

    def broken(view):
        raise InputError('"inputs" cannot be read: Stale file handle.')

    if rank == 0:
        writer.missing = broken
    try:
        writer.write_missing()
    except InputError as error:
        torch.save(str(error), f'{folder}/error_{rank}.pth')


def test_an_error_of_the_main_process_is_one_of_all(session, tmp_path):
    processes(fail_to_look, 2, str(tmp_path), session)
    errors = [torch.load(tmp_path / f'error_{rank}.pth') for rank in (0, 1)]
    assert errors == ['"inputs" cannot be read: Stale file handle.'] * 2


def test_nothing_but_teachers_and_inputs_is_left(session, store):
    writer = session()
    writer.write_missing()
    assert sorted(os.listdir(store)) == ['a', 'b', 'inputs']
    assert sorted(os.listdir(inputs_folder(store))) == ['manifest.json', 'view_000', 'view_001']
