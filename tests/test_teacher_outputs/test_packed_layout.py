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
