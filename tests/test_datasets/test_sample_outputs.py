# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Samples that carry stored outputs, and the comparison of their pixels."""

import shutil
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample
from test_teacher_outputs.stores import manifest, values, write

from mtkdrl_mm.datasets import SampleAnnotator, SampleOutputs
from mtkdrl_mm.datasets.sample_outputs import LoadedSample, pixel_checksum
from mtkdrl_mm.teacher_outputs import (
    StoreReader,
    StoreWriter,
    inputs_folder,
    inputs_manifest,
    library_versions,
    teacher_folder,
)
from mtkdrl_mm.utils import InputError

A = manifest('a')  # 10 samples in parts of 4, 2 views


def image(sample, view):
    return torch.full((3, 4, 4), 20 * sample + view, dtype=torch.uint8)


def load(sample, view=0, checked=True):
    """A sample as SeededDataset loads it."""
    packed = DataSample(metainfo=dict(img_path=f'/data/{sample}.png'))
    data = dict(inputs=image(sample, view), data_samples=packed)
    return LoadedSample(data, sample, view, pixel_checksum(data) if checked else None)


def write_inputs(root, libraries=None):
    of = inputs_manifest(A.dataset, A.views, 5, libraries)
    writer = StoreWriter(inputs_folder(root), of)
    for view in range(2):
        for part in range(2):
            sums = [zlib.crc32(image(s, view).numpy().tobytes()) for s in of.samples(part)]
            writer.write_part(view, part, dict(crc32=np.array(sums, np.uint32)))


@pytest.fixture
def root(tmp_path):
    write_inputs(str(tmp_path))
    write(teacher_folder(str(tmp_path), 'a'), A)
    return str(tmp_path)


def carried(data):
    return data['data_samples'].teacher_outputs


def test_checksum_of_the_pixels():
    pixels = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
    expected = zlib.crc32(bytes(range(24)))
    assert pixel_checksum(dict(inputs=pixels)) == expected
    # Flips and crops are views of other memory.
    strided = torch.stack([pixels, pixels], dim=3)[..., 0]
    assert not strided.is_contiguous()
    assert pixel_checksum(dict(inputs=strided)) == expected
    assert pixel_checksum(dict(inputs=pixels.flip(2))) != expected
    # Of blended images: one after the other.
    both = pixel_checksum(dict(inputs=pixels), pixel_checksum(dict(inputs=strided)))
    assert both == zlib.crc32(bytes(range(24)) * 2)


@pytest.mark.parametrize('data', [3, {}, dict(inputs=np.zeros(3)), dict(inputs=[torch.zeros(3)])])
def test_data_without_an_image(data):
    with pytest.raises(InputError, match='must end in `PackInputs`, which yields an image under'):
        pixel_checksum(data)


def test_keys_alone():
    annotate = SampleAnnotator()
    assert not annotate.wants_checksum()
    (data,) = annotate([load(3, 1, checked=False)])
    assert carried(data) == SampleOutputs(sample=3, view=1, crc32=None, row=None)
    (data,) = annotate([load(3, 1)])
    assert carried(data).crc32 == zlib.crc32(bytes([61]) * 48)
    assert SampleAnnotator(always_checksum=True).wants_checksum()


def test_which_samples_are_compared(root):
    annotate = SampleAnnotator(StoreReader(root, ['a']), first_checks=3, check_interval=4)
    wanted = [annotate.wants_checksum() for _ in range(16)]
    assert [number for number, one in enumerate(wanted, start=1) if one] == [1, 2, 3, 4, 8, 12, 16]
    always = SampleAnnotator(
        StoreReader(root, ['a']), first_checks=0, check_interval=100, always_checksum=True
    )
    assert all(always.wants_checksum() for _ in range(5))


def test_rows_of_a_batch(root):
    reader = StoreReader(root, ['a'])
    annotate = SampleAnnotator(reader)
    keys = [(9, 0), (0, 1), (4, 1), (9, 1)]
    batch = annotate([load(*key) for key in keys])
    alone = [annotate([load(*key, checked=False)])[0] for key in keys]
    for key, data, one in zip(keys, batch, alone):
        outputs = carried(data)
        assert (outputs.sample, outputs.view) == key
        assert torch.equal(data['inputs'], image(*key))
        tensors = reader.layout.unpack_numpy(outputs.row[None])['a']
        for name, expected in values(A, key[1], [key[0]]).items():
            np.testing.assert_array_equal(tensors[name], expected)
        np.testing.assert_array_equal(carried(one).row, outputs.row)
        assert carried(one).crc32 is None


def test_other_pixels_are_named(root):
    annotate = SampleAnnotator(StoreReader(root, ['a']))
    wrong = load(7, 1)
    wrong = wrong._replace(crc32=wrong.crc32 ^ 1)
    with pytest.raises(InputError) as error:
        annotate([load(8, 1), wrong])
    stored = zlib.crc32(bytes([141]) * 48)
    assert str(error.value) == (
        'The pixels of view 1 of image "/data/7.png" are not those that the teachers saw when '
        f'"{root}/inputs" was stored (crc32 {stored ^ 1:08x}, stored {stored:08x}). An image file, '
        'the pipeline, or what decodes images has changed: restore it, or store the outputs again '
        'in another folder.'
    )
    # A sample whose checksum was not computed is not compared.
    annotate([wrong._replace(crc32=None)])
    del wrong.data['data_samples'].img_path
    with pytest.raises(InputError, match='The pixels of view 1 of image number 7 are not'):
        annotate([wrong])


def test_libraries_that_may_be_the_cause(root):
    shutil.rmtree(inputs_folder(root))
    here = library_versions()
    write_inputs(
        root, {**{k: v for k, v in here.items() if k != 'numpy'}, 'pillow': '1.0', 'x': '2'}
    )
    wrong = load(0)._replace(crc32=5)
    with pytest.raises(InputError) as error:
        SampleAnnotator(StoreReader(root, ['a']))([wrong])
    cause = (
        f'Other versions of libraries may be the cause (numpy (none) there, {here["numpy"]} here; '
        f'pillow 1.0 there, {here["pillow"]} here; x 2 there, (none) here): install those of the '
        'store, or store the outputs again in another folder.'
    )
    assert str(error.value).endswith(cause)


def test_parts_that_are_still_being_written(root):
    folder = teacher_folder(root, 'a')
    shutil.rmtree(folder)
    writer = StoreWriter(folder, A)
    strict = SampleAnnotator(StoreReader(root, ['a']))
    lenient = SampleAnnotator(StoreReader(root, ['a']), optional=True)

    def stored(samples):
        return [carried(data).row is not None for data in lenient([load(s) for s in samples])]

    assert stored([0, 4, 9]) == [False, False, False]
    writer.write_part(0, 1, values(A, 0, range(4, 8)))
    assert stored([0, 4, 9, 7]) == [False, True, False, True]
    # Another view of the same sample is not stored.
    (data,) = lenient([load(4, 1)])
    assert carried(data).row is None
    with pytest.raises(InputError, match=r'part_0000\.safetensors" does not exist: this view is'):
        strict([load(0)])
    # Pixels are compared where there is something to compare with.
    lenient([load(0)._replace(crc32=1)])
    with pytest.raises(InputError, match=r'The pixels of view 0 of image "/data/5\.png"'):
        lenient([load(5)._replace(crc32=1)])


def test_teachers_that_are_not_all_stored(root):
    """A row holds all teachers, or there is none."""
    other = replace(A, teacher=replace(A.teacher, name='b'))
    writer = StoreWriter(teacher_folder(root, 'b'), other)
    annotate = SampleAnnotator(StoreReader(root, ['a', 'b']), optional=True)
    assert carried(annotate([load(0)])[0]).row is None
    writer.write_part(0, 0, values(other, 0, range(4)))
    row = carried(annotate([load(0)])[0]).row
    assert row.shape == (annotate.reader.layout.nbytes,)


@pytest.mark.parametrize('data', [torch.zeros(3), dict(inputs=torch.zeros(3))])
def test_data_without_a_sample(data):
    with pytest.raises(InputError, match='must end in `PackInputs`, which yields `data_samples`'):
        SampleAnnotator()([LoadedSample(data, 0, 0, None)])
