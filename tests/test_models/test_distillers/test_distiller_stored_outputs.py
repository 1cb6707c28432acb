# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A distiller whose teachers' outputs are read: the same loss, and no network."""

import numpy as np
import pytest
import torch
from mmpretrain.models.utils import RandomBatchAugment
from test_teacher_outputs.stores import manifest, write_store

from mtkdrl_mm.datasets import SampleOutputs
from mtkdrl_mm.models import MultiTeacherDistiller, StoredTeacherPool
from mtkdrl_mm.teacher_outputs import TensorSpec, create_basis, teacher_folder
from mtkdrl_mm.utils import InputError

SIZES = dict(a=32, b=48)


@pytest.fixture
def teachers(make_resnet):
    return [
        dict(make_resnet(size // 8), name=name, checkpoint='gone.pth')
        for name, size in SIZES.items()
    ]


@pytest.fixture
def root(tmp_path):
    """A store with the sizes of the teachers' outputs, of which only the manifests matter here."""
    manifests = [
        manifest(
            name,
            tensors=[
                TensorSpec('logits', (5,), 'float32'),
                TensorSpec('embedding', (size,), 'float32'),
                TensorSpec('feature_map', (size, 1, 1), 'float32'),
            ],
        )
        for name, size in SIZES.items()
    ]
    return write_store(str(tmp_path / 'store'), *manifests)


@pytest.mark.parametrize('feature_loss_weight', [0.0, 5.0])
def test_the_loss_is_that_with_running_teachers(
    make_distiller, make_resnet, make_batch, teachers, root, feature_loss_weight
):
    kwargs = dict(weighting='EBKD', feature_loss_weight=feature_loss_weight)
    live = make_distiller(teachers, **kwargs).eval()
    reading = MultiTeacherDistiller(
        student=make_resnet(4), teachers=teachers, teacher_outputs=root, **kwargs
    ).eval()
    missing = reading.load_state_dict(live.state_dict())
    assert not missing.missing_keys and not missing.unexpected_keys
    inputs, samples = make_batch(4)
    expected = live(inputs, samples, mode='loss')
    rows = reading.teachers.codec.encode(live.teachers(inputs)).numpy()
    for number, (sample, row) in enumerate(zip(samples, rows)):
        sample.set_field(SampleOutputs(number, 0, None, row), 'teacher_outputs')
    losses = reading(inputs, samples, mode='loss')
    assert losses.keys() == expected.keys()
    for key, value in losses.items():
        assert torch.equal(value, expected[key]), key


def test_no_network_is_built(make_resnet, teachers, root):
    reading = MultiTeacherDistiller(student=make_resnet(4), teachers=teachers, teacher_outputs=root)
    assert isinstance(reading.teachers, StoredTeacherPool)
    assert reading.teachers.live is None
    assert [config.name for config in reading.teacher_configs] == ['a', 'b']
    reading.init_weights()  # reads no file of a teacher
    with pytest.raises(InputError, match=r'are needed, but their outputs are read from a store: l'):
        _ = reading.live_teachers


def test_connectors_fit_what_is_stored(make_resnet, teachers, tmp_path):
    vectors = [TensorSpec('logits', (5,), 'float16'), TensorSpec('embedding', (32,), 'float16')]
    projected = TensorSpec('token_map_components', (3, 1, 1), 'float16')
    basis = dict(components=np.eye(3, 24, dtype=np.float32), mean=np.zeros(24, np.float32))
    _, digest = create_basis(teacher_folder(str(tmp_path), 'b'), basis)
    root = write_store(
        str(tmp_path),
        manifest('a', tensors=vectors),
        manifest('b', tensors=[*vectors, projected], basis_sha256=digest),
    )
    reading = MultiTeacherDistiller(student=make_resnet(4), teachers=teachers, teacher_outputs=root)
    kinds = {name: type(one).__name__ for name, one in reading.connectors.items()}
    assert kinds == dict(a='EmbeddingConnector', b='MapConnector')
    channels = [p.shape[0] for p in reading.connectors['b'].parameters() if p.ndim == 4]
    assert channels[-1] == 24  # the teacher's, however many are stored
    # A ReLU could not follow what is negative as often as positive.
    names = [type(module).__name__ for module in reading.connectors['b'].modules()]
    assert 'ReLU' not in names


def test_a_training_that_writes_has_both(make_resnet, teachers):
    settings = dict(root='/nothing/yet', views=2, write=True, maps='projected', map_channels=8)
    kwargs = dict(student=make_resnet(4), teachers=teachers, teacher_outputs=settings)
    writing = MultiTeacherDistiller(**kwargs)
    assert isinstance(writing.teachers, StoredTeacherPool)
    assert writing.live_teachers is writing.teachers.live
    assert writing.live_teachers.names == ('a', 'b')
    assert writing.teachers.spec.map_channels == (32, 48)
    moved = writing.to(torch.float64)
    assert next(moved.live_teachers.parameters()).dtype == torch.float64


def test_views_alone_keep_the_pool(make_distiller):
    distiller = make_distiller(teacher_outputs=dict(views=2))
    assert distiller.live_teachers is distiller.teachers


def test_a_student_alone_needs_no_store(make_resnet):
    alone = MultiTeacherDistiller(student=make_resnet(4), teacher_outputs='/nothing')
    assert not alone.has_teachers


def test_teachers_that_cannot_be_told_apart(make_resnet, teachers):
    """Their connectors would be one module."""
    teachers[0]['name'], teachers[1]['name'] = 'a.b', 'a_b'
    with pytest.raises(InputError, match=r'Two teachers are named "a\.b" \(numbers 0 and 1\)'):
        MultiTeacherDistiller(student=make_resnet(4), teachers=teachers, teacher_outputs='/nothing')


def test_a_pool_without_configs(make_pool, make_resnet):
    pool = make_pool([make_resnet(4)])
    with pytest.raises(InputError, match='`teacher_outputs` needs the configs of the teachers'):
        MultiTeacherDistiller(student=make_resnet(4), teachers=pool, teacher_outputs='/nothing')


def test_students_with_other_classes(make_resnet, teachers, root):
    student = make_resnet(4, num_classes=7)
    with pytest.raises(InputError, match='student has 7 classes, but its teachers have 5'):
        MultiTeacherDistiller(student=student, teachers=teachers, teacher_outputs=root)


def test_batch_augments_are_taken_once_and_kept(make_distiller, make_resnet):
    distiller = make_distiller([make_resnet(4)])
    assert distiller.take_batch_augments() is None
    augments = RandomBatchAugment(dict(type='Mixup', alpha=1.0))
    distiller.data_preprocessor.batch_augments = augments
    assert distiller.take_batch_augments() is augments
    assert distiller.data_preprocessor.batch_augments is None
    assert distiller.take_batch_augments() is augments
