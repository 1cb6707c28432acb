# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Packed rows: positions, and views without copies."""

import numpy as np
import pytest
import torch

from mtkdrl_mm.teacher_outputs import PackedLayout, TensorSpec
from mtkdrl_mm.utils import InputError

from .stores import TENSORS, manifest, values


def packed_rows(layout, rows):
    """Random numbers at the positions of a layout, and the packed batch."""
    packed = np.zeros((rows, layout.nbytes), np.uint8)
    expected = {}
    for entry in layout.entries:
        shape = (rows, *entry.spec.shape)
        array = np.random.standard_normal(shape).astype(entry.spec.dtype)
        data = np.frombuffer(array.tobytes(), np.uint8).reshape(rows, entry.spec.row_bytes)
        packed[:, entry.offset : entry.offset + entry.spec.row_bytes] = data
        expected.setdefault(entry.teacher, {})[entry.spec.name] = array
    return packed, expected


@pytest.mark.parametrize('rows', [1, 3])
def test_unpacked_tensors_share_the_memory(rows):
    layout = PackedLayout(
        dict(a=TENSORS, b=[TensorSpec('logits', (3,), 'float16'), TensorSpec('t', (), 'float32')])
    )
    assert [entry.offset for entry in layout.entries] == [0, 8, 32, 48, 56]
    assert layout.nbytes == 64
    assert layout.has_padding
    packed, expected = packed_rows(layout, rows)
    tensors = layout.unpack(torch.from_numpy(packed))
    arrays = layout.unpack_numpy(packed)
    for teacher, by_name in expected.items():
        assert list(tensors[teacher]) == list(arrays[teacher]) == list(by_name)
        for name, array in by_name.items():
            np.testing.assert_array_equal(tensors[teacher][name].numpy(), array)
            np.testing.assert_array_equal(arrays[teacher][name], array)
    packed[:] = 0
    assert all(not t.any() for by_name in tensors.values() for t in by_name.values())
    assert all(not t.any() for by_name in arrays.values() for t in by_name.values())


def test_without_padding():
    assert not PackedLayout(dict(a=[TensorSpec('logits', (1000,), 'float16')])).has_padding


def test_a_batch_of_another_layout():
    layout = PackedLayout(dict(a=TENSORS))
    for batch in (torch.zeros(2, 47, dtype=torch.uint8), torch.zeros(48, dtype=torch.uint8)):
        with pytest.raises(InputError, match=r'must have the shape \(B, 48\) and the dtype uint8'):
            layout.unpack(batch)
    with pytest.raises(InputError, match=r'has the shape \(2, 48\) and another dtype'):
        layout.unpack(torch.zeros(2, 48))
    with pytest.raises(InputError, match='another dtype'):
        layout.unpack_numpy(np.zeros((2, 48), np.int8))


def test_dtypes_that_torch_lacks():
    with pytest.raises(InputError, match='"n" of teacher "a" is stored as uint32'):
        PackedLayout(dict(a=[TensorSpec('n', (1,), 'uint32')]))


def test_values_of_the_test_stores_differ():
    rows = [values(manifest(name), view, [s]) for name in 'ab' for view in (0, 1) for s in (0, 1)]
    assert len({row['embedding'].tobytes() for row in rows}) == 8


def test_what_is_packed_is_unpacked():
    layout = PackedLayout(
        dict(a=TENSORS, b=[TensorSpec('logits', (3,), 'float16'), TensorSpec('t', (), 'float32')])
    )
    packed, arrays = packed_rows(layout, 4)
    tensors = {
        teacher: {name: torch.from_numpy(array) for name, array in reversed(list(named.items()))}
        for teacher, named in reversed(list(arrays.items()))
    }
    # The same bytes, zeros between tensors included, whatever the order of the dicts.
    assert torch.equal(layout.pack(tensors), torch.from_numpy(packed))
    one = {t: {n: tensor[2:3] for n, tensor in named.items()} for t, named in tensors.items()}
    assert torch.equal(layout.pack(one), torch.from_numpy(packed[2:3]))
    none = {t: {n: tensor[:0] for n, tensor in named.items()} for t, named in tensors.items()}
    assert layout.pack(none).shape == (0, 64)


def test_strided_tensors_are_packed():
    layout = PackedLayout(dict(a=[TensorSpec('map', (3, 2, 2), 'float32')]))
    maps = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    assert torch.equal(layout.unpack(layout.pack(dict(a=dict(map=maps))))['a']['map'], maps)
