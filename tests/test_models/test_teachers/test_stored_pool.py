# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The pool whose outputs come with the samples."""

import re

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample
from test_teacher_outputs.stores import changed, manifest, values, write_store

from mtkdrl_mm.datasets import SampleOutputs
from mtkdrl_mm.models import StoredTeacherPool
from mtkdrl_mm.models.teachers.stored_pool import spec_of
from mtkdrl_mm.teacher_outputs import (
    OutputCodec,
    PackedLayout,
    StoreReader,
    TeacherOutputsSettings,
    TensorSpec,
)
from mtkdrl_mm.utils import InputError


def specs(classes=5, size=32, feature_map=None, dtype='float16'):
    found = [TensorSpec('logits', (classes,), dtype), TensorSpec('embedding', (size,), dtype)]
    return found if feature_map is None else [*found, TensorSpec(*feature_map, dtype)]


A = manifest('a', tensors=specs(feature_map=('feature_map', (6, 2, 2))))
B = manifest('b', tensors=specs(size=7))


@pytest.fixture
def root(tmp_path):
    return write_store(str(tmp_path / 'store'), A, B)


def open_store(root, names=('b', 'a')):
    return StoredTeacherPool.open(TeacherOutputsSettings(root=root), names)


def samples_with(outputs):
    found = [DataSample() for _ in outputs]
    for sample, one in zip(found, outputs):
        if one is not None:
            sample.set_field(one, 'teacher_outputs')
    return found


def images(count=4):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, 32, 32, generator=generator)


def test_outputs_are_those_of_the_store(root):
    pool = open_store(root)
    reader = StoreReader(root, ['b', 'a'])
    keys = [(9, 0), (0, 1), (4, 1)]
    rows = [reader.read_packed([s], v)[0] for s, v in keys]
    carried = [SampleOutputs(s, v, None, row) for (s, v), row in zip(keys, rows)]
    outputs = pool(images(3), samples_with(carried))
    assert [output.feature_map is None for output in outputs] == [True, False]
    for of, output in zip((B, A), outputs):
        expected = [values(of, view, [sample]) for sample, view in keys]
        for name in (spec.name for spec in of.tensors):
            tensor = getattr(output, name)
            assert tensor.dtype == torch.float32 and not tensor.requires_grad
            stacked = np.concatenate([one[name] for one in expected]).astype(np.float32)
            np.testing.assert_array_equal(tensor.numpy(), stacked)


def test_a_pool_that_reads_has_no_network(root):
    pool = open_store(root)
    assert len(pool) == 2 and pool.names == pool.spec.names == ('b', 'a')
    assert list(pool.parameters()) == list(pool.buffers()) == []
    assert pool.spec.num_classes == 5
    assert pool.spec.embedding_sizes == (7, 32)
    assert pool.spec.map_channels == (None, 6)
    assert pool.spec.signed_maps == (False, False)
    # All that a training asks of a pool.
    pool.load_weights()
    pool.prepare(images())
    pool.restore_inference(dict(a={}))
    assert pool.inference_state() is None
    assert not pool.train().training
    assert pool.to(torch.float64) is pool


@pytest.mark.parametrize('samples', [None, [], [None], ['whole', None], ['empty', 'whole']])
def test_images_without_stored_outputs(root, samples):
    pool = open_store(root)
    row = np.zeros(pool.codec.layout.nbytes, np.uint8)
    kinds = dict(whole=SampleOutputs(0, 0, None, row), empty=SampleOutputs(0, 0, None, None))
    given = None if samples is None else samples_with([kinds.get(one) for one in samples])
    with pytest.raises(InputError) as error:
        pool(images(2), given)
    assert str(error.value) == (
        'These images carry no stored outputs of the teachers, and the teachers were not built. '
        '`model.teacher_outputs` is for the training data of mtkdrl_mm.ResumableRunner, given by a '
        'config.'
    )


def test_what_is_not_in_the_store(root):
    with pytest.raises(InputError, match=r'holds no outputs of teacher "c"\. Known: "a", "b"\.'):
        open_store(root, ('a', 'c'))
    with pytest.raises(InputError, match='/nothing" does not exist'):
        open_store(root + '/nothing')


def test_teachers_of_other_classes(tmp_path):
    c = changed(B, teacher__name='c', tensors=specs(classes=4))
    root = write_store(str(tmp_path), A, c)
    with pytest.raises(InputError, match=re.escape('classes: "a" has 5, "c" has 4. Leave some')):
        open_store(root, ('a', 'c'))
    assert open_store(root, ('c',)).spec.num_classes == 4


@pytest.mark.parametrize(
    ('feature_map', 'channels', 'signed'),
    [
        (None, None, False),
        (('feature_map', (6, 2, 2)), 6, False),
        (('token_map', (6, 2, 2)), 6, True),
        (('pooled_map', (6, 1, 1)), 6, False),
        (('pooled_token_map', (6, 1, 1)), 6, True),
        (('map_components', (3, 2, 2)), 6, False),
        (('token_map_components', (3, 2, 2)), 6, True),
    ],
)
def test_spec_of_each_kind_of_map(feature_map, channels, signed):
    bases = dict(a=dict(components=np.eye(3, 6), mean=np.zeros(6)))
    spec = spec_of(OutputCodec(PackedLayout(dict(a=specs(feature_map=feature_map))), bases))
    assert (spec.map_channels, spec.signed_maps) == ((channels,), (signed,))


@pytest.fixture
def live(make_pool, make_resnet, make_vit):
    return make_pool([dict(make_resnet(4), name='a'), dict(make_vit(16), name='b')])


def writing(live, **kwargs):
    """The pool of a training that writes, and the rows that it has recorded."""
    settings = TeacherOutputsSettings(root='x', views=2, write=True, **kwargs)
    pool = StoredTeacherPool.of_live(live, settings)
    pool.codec = OutputCodec(
        PackedLayout(
            dict(
                a=specs(feature_map=('feature_map', (32, 1, 1)), dtype=settings.logits),
                b=specs(size=16, dtype=settings.logits),
            )
        )
    )
    records = []
    pool.record = lambda *record: records.append(record)
    return pool, records


@pytest.mark.parametrize(
    ('kwargs', 'channels'),
    [
        (dict(maps='none'), (None, None)),
        (dict(maps='full'), (32, None)),
        (dict(maps='pooled'), (32, None)),
        (dict(maps='projected', map_channels=8), (32, None)),
        (dict(maps='projected', map_channels=64), (32, None)),
        (dict(maps='none', embedding_channels=20), (None, None)),
    ],
)
def test_sizes_are_known_before_a_teacher_has_run(live, kwargs, channels):
    """The connectors are built for them."""
    settings = TeacherOutputsSettings(root='x', views=2, write=True, **kwargs)
    spec = StoredTeacherPool.of_live(live, settings).spec
    assert spec.names == ('a', 'b')
    assert spec.num_classes == 5
    size = min(32, settings.embedding_channels)
    assert spec.embedding_sizes == (size, 16)
    assert spec.embedding_scales == pytest.approx(((size / 32) ** 0.5, 1.0))
    assert spec.map_channels == channels
    assert spec.signed_maps == (False, False)


def test_what_is_computed_is_recorded_and_used_as_it_is_stored(live):
    pool, records = writing(live)
    exact = live(images())
    carried = [SampleOutputs(10 + i, i % 2, 1000 + i, None) for i in range(4)]
    outputs = pool(images(), samples_with(carried))
    assert torch.equal(outputs[0].logits, exact[0].logits.half().float())
    assert torch.equal(outputs[0].feature_map, exact[0].feature_map.half().float())
    ((samples, views, crc32, rows),) = records
    assert samples == [10, 11, 12, 13]
    assert views == [0, 1, 0, 1]
    assert crc32 == [1000, 1001, 1002, 1003]
    assert rows.shape == (4, pool.codec.layout.nbytes) and rows.dtype == np.uint8
    # Read again, they are the same.
    read = pool(images(), samples_with([c._replace(row=r) for c, r in zip(carried, rows)]))
    assert len(records) == 1
    for one, other in zip(outputs, read):
        assert torch.equal(one.logits, other.logits)
        assert torch.equal(one.embedding, other.embedding)
    assert torch.equal(outputs[0].feature_map, read[0].feature_map)


def test_only_new_rows_are_recorded(live):
    pool, records = writing(live)
    carried = [SampleOutputs(i, 0, i, None) for i in range(4)]
    whole = pool(images(), samples_with(carried))
    rows = records.pop()[3]
    for i in (0, 2):
        carried[i] = carried[i]._replace(row=rows[i])
    mixed = pool(images(), samples_with(carried))
    ((samples, _, _, new),) = records
    assert samples == [1, 3]
    np.testing.assert_array_equal(new, rows[[1, 3]])
    assert torch.equal(whole[1].logits, mixed[1].logits)
    # Without a recorder the teachers run all the same.
    pool.record = None
    assert torch.equal(pool(images(), samples_with(carried))[1].logits, whole[1].logits)


@pytest.mark.parametrize('samples', [None, 'without'])
def test_other_images_are_not_stored_but_have_the_stored_form(live, samples):
    pool, records = writing(live)
    given = None if samples is None else samples_with([None] * 4)
    for output, exact in zip(pool(images(), given), live(images())):
        assert torch.equal(output.logits, exact.logits.half().float())
    assert records == []


def test_a_store_does_not_depend_on_mixed_precision(live):
    pool, records = writing(live, logits='float32')
    carried = samples_with([SampleOutputs(i, 0, i, None) for i in range(4)])
    exact = pool(images(), carried)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        rounded = live(images())
        mixed = pool(images(), carried)
    assert not torch.equal(rounded[0].logits.float(), exact[0].logits)
    for output, expected in zip(mixed, exact):
        assert output.logits.dtype == torch.float32
        assert torch.equal(output.logits, expected.logits)
        assert torch.equal(output.embedding, expected.embedding)
    np.testing.assert_array_equal(records[0][3], records[1][3])


def test_the_networks_are_those_of_the_pool(live, monkeypatch):
    pool, _ = writing(live)
    assert set(map(id, pool.parameters())) == set(map(id, live.parameters()))
    calls = []
    for name in ('load_weights', 'prepare', 'restore_inference'):
        monkeypatch.setattr(live, name, lambda *args, name=name: calls.append((name, *args)))
    pool.load_weights()
    pool.prepare(3)
    pool.restore_inference(dict(a=4))
    assert calls == [('load_weights',), ('prepare', 3), ('restore_inference', dict(a=4))]
    assert pool.inference_state() == live.inference_state() is None
    assert not any(module.training for module in pool.train(True).modules())
