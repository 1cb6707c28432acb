# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A training that is connected to a store: read, written, or on the same views without one."""

import logging
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.logging import MMLogger
from PIL import Image
from test_teacher_outputs.stores import contents
from torch.multiprocessing.spawn import start_processes
from torch.utils.data import DataLoader

from mtkdrl_mm.datasets import KeyedBlend, SeededIndex
from mtkdrl_mm.engine.teacher_outputs import connect_teacher_outputs, writing_session
from mtkdrl_mm.models import TeacherPool
from mtkdrl_mm.teacher_outputs import StoreReader, TeacherOutputsSettings
from mtkdrl_mm.utils import InputError

LOSSLESS = dict(logits='float32', maps='full')


@pytest.fixture
def store(tmp_path):
    return str(tmp_path / 'store')


@pytest.fixture
def lines(monkeypatch):
    """What is logged, and at which level."""
    records = []

    def record(message, logger=None, level=logging.INFO):
        records.append((level, message))

    monkeypatch.setattr('mtkdrl_mm.engine.teacher_outputs.print_log', record)
    return records


@pytest.fixture
def fill(make_training, store):
    """Function that fills a store of two views, as the tool does."""

    def run(root=store, views=2, only=None, seed=None, form=LOSSLESS, **kwargs):
        settings = TeacherOutputsSettings(root=root, views=views, seed=seed, **form)
        writing_session(*make_training(**kwargs), settings).write_missing(views=only)
        return root

    return run


@pytest.fixture
def connect(make_training):
    """Function that builds a training and connects it."""

    def build(outputs, **kwargs):
        model, loader = make_training(outputs, **kwargs)
        return model, loader, connect_teacher_outputs(model, loader)

    return build


@pytest.fixture
def runs(monkeypatch):
    """Numbers of images on which the teachers were run."""
    counts = []
    original = TeacherPool.forward

    def forward(self, inputs, *args, **kwargs):
        counts.append(len(inputs))
        return original(self, inputs, *args, **kwargs)

    monkeypatch.setattr(TeacherPool, 'forward', forward)
    return counts


def assert_equal(first, second):
    """The same outputs for the same images, bit by bit."""
    assert first.keys() == second.keys() and len(first) == 22
    for path, tensors in first.items():
        assert len(tensors) == len(second[path])
        assert all(torch.equal(a, b) for a, b in zip(tensors, second[path])), path


# -- Views without a store ----------------------------------------------------------------------


def test_without_the_setting_nothing_changes(connect):
    model, loader, filling = connect(None, mixup=True)
    assert filling is None
    assert loader.dataset.annotator is loader.dataset.blend is None
    assert loader.batch_sampler.num_views is loader.batch_sampler.view_seed is None
    assert model.teachers.batch_size is None
    assert model.data_preprocessor.batch_augments is not None


def test_views_repeat(connect, run_epoch):
    model, loader, filling = connect(dict(views=2, seed=3))
    assert filling is None
    epochs = [run_epoch(model, loader, epoch)[0] for epoch in range(3)]
    assert_equal(epochs[0], epochs[2])
    assert not any(torch.equal(epochs[0][path][0], epochs[1][path][0]) for path in epochs[0])
    # The order is that of the run's seed, and the augmentation that of the store's.
    loader.batch_sampler.set_position(7, 1)
    keys = [index.seed_key for batch in loader.batch_sampler for index in batch]
    assert {key[0] for key in keys} == {3} and {key[2] for key in keys} == {1}


def test_the_batch_does_not_matter(connect, run_epoch):
    """Teachers run on batches that are filled up, mixup is a function of the image alone."""
    outputs = dict(views=2)
    first = run_epoch(*connect(outputs, mixup=True)[:2])[0]
    for kwargs in (dict(batch_size=4, workers=2), dict(drop_last=True, batch_size=4)):
        other = run_epoch(*connect(outputs, mixup=True, **kwargs)[:2])[0]
        for path, tensors in other.items():
            assert all(torch.equal(a, b) for a, b in zip(tensors, first[path]))


@pytest.mark.parametrize('mode', ['views', 'read', 'write'])
def test_workers_that_have_started_are_replaced(connect, fill, store, run_epoch, mode):
    """They have copies of the data set as it was before, without mixup and without the store."""
    outputs = dict(
        views=dict(views=2), read=store, write=dict(root=store, views=2, write=True, **LOSSLESS)
    )[mode]
    if mode == 'read':
        fill(mixup=True)
    expected = run_epoch(*connect(outputs, mixup=True)[:2])
    model, loader, _ = connect(None, mixup=True, workers=1, persistent_workers=True)
    for _ in loader:
        pass
    assert loader._iterator is not None
    model, _, _ = connect(outputs, mixup=True)
    model.data_preprocessor.batch_augments = model.data_preprocessor.keyed_augments
    connect_teacher_outputs(model, loader)
    outputs, carried = run_epoch(model, loader)
    assert_equal(outputs, expected[0])
    assert [one is None for one in carried.values()] == [mode == 'views'] * 22
    loader._iterator = None  # ends the workers at once, and not when garbage is collected


def test_a_later_training_of_a_model_blends_as_well(make_training):
    model, loader = make_training(dict(views=2), mixup=True)
    connect_teacher_outputs(model, loader)
    _, other = make_training(dict(views=2), mixup=True)
    connect_teacher_outputs(model, other)
    first, second = (one.dataset[SeededIndex(3, 0, 1)]['inputs'] for one in (loader, other))
    assert isinstance(other.dataset.blend, KeyedBlend) and torch.equal(first, second)
    assert model.data_preprocessor.batch_augments is None


def test_data_without_keys(make_training):
    model, loader = make_training(dict(views=2))
    plain = DataLoader(loader.dataset.dataset, batch_size=4)
    with pytest.raises(InputError) as error:
        connect_teacher_outputs(model, plain)
    assert str(error.value) == (
        '`model.teacher_outputs` needs training data whose augmentations follow from sample and '
        'view: give `train_dataloader` as a config, and use mtkdrl_mm.ResumableRunner.'
    )


# -- Reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize('mixup', [False, True])
def test_what_is_read_is_what_the_teachers_say(connect, fill, store, run_epoch, lines, mixup):
    # The last batch has one image, on which networks round in another way unless it is filled up.
    fill(mixup=mixup, batch_size=7)
    live, plain, _ = connect(dict(views=2), mixup=mixup, batch_size=7)
    model, loader, filling = connect(store, mixup=mixup, batch_size=5, workers=1)
    assert filling is None
    for epoch in range(3):
        outputs, carried = run_epoch(model, loader, epoch)
        assert_equal(outputs, run_epoch(live, plain, epoch)[0])
        assert {one.view for one in carried.values()} == {epoch % 2}
    nbytes = model.teachers.codec.layout.nbytes
    assert lines == [
        (
            logging.INFO,
            f'Teachers: 2 read from "{store}", 2 views, {nbytes / 1024:.1f} KiB per image: logits '
            '(float32), embedding (float32), feature_map (float32). No network is run.',
        )
    ]


def test_fewer_views(connect, fill, store):
    fill()
    _, loader, _ = connect(dict(root=store, first_views=1))
    assert loader.batch_sampler.num_views == 1
    with pytest.raises(InputError, match=rf'first_views` is 3, but "{store}" holds 2 views\.'):
        connect(dict(root=store, first_views=3))


def test_only_what_is_used_must_be_complete(connect, fill, store):
    fill(only=[0])
    connect(dict(root=store, first_views=1))
    with pytest.raises(InputError, match=r'/view_001/.*" does not exist: this view is not compl'):
        connect(store)


def test_teachers_need_no_files(make_training, fill, store, make_teachers, monkeypatch):
    fill()

    def load(*args):
        raise AssertionError('no file of a teacher may be read')

    monkeypatch.setattr('mtkdrl_mm.models.teachers.teacher.load_teacher', load)
    model, loader = make_training(store)
    for teacher in make_teachers():
        os.remove(teacher['checkpoint'])
    connect_teacher_outputs(model, loader)
    assert loader.dataset.annotator is not None


def test_a_store_of_another_training(connect, fill, store, photos, make_teachers):
    fill(seed=4)
    _, loader, _ = connect(store)
    assert loader.batch_sampler.view_seed == 4  # that of the store
    for outputs, kwargs, sentence in (
        (dict(root=store, seed=5), {}, 'with another augmentation seed: 4 there, 5 here'),
        (dict(root=store, views=3), {}, 'with another number of views: 2 there, 3 here'),
        (store, dict(augment=()), 'with another data pipeline'),
        (store, dict(mixup=True), 'with another setting of blends'),
        (store, dict(names='ac'), 'holds no outputs of teacher "c"'),
    ):
        with pytest.raises(InputError, match=sentence):
            connect(outputs, **kwargs)
    path = Path(make_teachers('a')[0]['checkpoint'])
    state = torch.load(path)
    state['head.fc.bias'] += 1
    torch.save(state, path)
    with pytest.raises(InputError, match='teacher "a" with another version of the weights'):
        connect(store)
    path.unlink()  # a file that is gone counts by its name
    make_teachers('a')
    connect(store)
    first = sorted(photos.rglob('*.png'))[0]
    first.rename(first.with_name('new.png'))
    with pytest.raises(InputError, match=r'with another data set \(files, labels or order\)'):
        connect(store)


def test_some_of_the_teachers_in_another_order(connect, fill, store, run_epoch):
    fill(names='abc')
    live = run_epoch(*connect(dict(views=2), names='ca')[:2])[0]
    assert_equal(run_epoch(*connect(store, names='ca')[:2])[0], live)


# -- Writing while a training runs --------------------------------------------------------------


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


@pytest.mark.parametrize('form', [{}, dict(maps='projected', map_channels=4), dict(maps='pooled')])
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
        'mtkdrl_mm.engine.teacher_outputs.check_free_space', lambda *args: needed.append(args)
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
