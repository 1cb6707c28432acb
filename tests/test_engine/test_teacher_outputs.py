# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A training that is connected to a store, or to the same views without one."""

import logging
import os
from pathlib import Path

import pytest
import torch

from mtkdrl_mm.engine.teacher_outputs import connect_teacher_outputs
from mtkdrl_mm.utils import InputError

from .conftest import LOSSLESS, assert_equal

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
    model.data_preprocessor.batch_augments = model.take_batch_augments()
    connect_teacher_outputs(model, loader)
    outputs, carried = run_epoch(model, loader)
    assert_equal(outputs, expected[0])
    assert [one is None for one in carried.values()] == [mode == 'views'] * 22
    loader._iterator = None  # ends the workers at once, and not when garbage is collected


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
