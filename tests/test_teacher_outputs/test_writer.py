# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Writing of parts: what is converted, refused, missing, and how much it takes."""

import errno
import os
import re
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch

from mtkdrl_mm.teacher_outputs import StoreWriter, TensorSpec, format_bytes
from mtkdrl_mm.utils import InputError

from .stores import changed, contents, manifest, values, write_part


def test_missing_parts(tmp_path):
    writer = StoreWriter(str(tmp_path), manifest())
    assert writer.missing(0) == writer.missing(1) == [0, 1, 2]
    write_part(writer, 0, 1)
    assert writer.missing(0) == [0, 2]
    assert writer.missing(1) == [0, 1, 2]
    assert writer.has_part(0, 1)
    assert not writer.has_part(1, 1)
    for call in (lambda: writer.missing(2), lambda: write_part(writer, 2, 0)):
        with pytest.raises(InputError, match='View 2 of teacher "a" does not exist: there are 2'):
            call()
    with pytest.raises(InputError, match='has no part 3, but 0 to 2'):
        write_part(writer, 0, 3)


def test_bytes_needed_are_those_of_the_files(tmp_path):
    writer = StoreWriter(
        str(tmp_path), changed(manifest(), part_size=5000, dataset__num_samples=9000)
    )
    needed = writer.bytes_needed([0])
    assert writer.bytes_needed() == 2 * needed
    write_part(writer, 0, 0)
    write_part(writer, 0, 1)
    written = sum(len(c) for name, c in contents(tmp_path).items() if 'part' in name)
    assert written <= needed <= 1.05 * written
    assert writer.bytes_needed([0]) == 0


def test_free_space_is_checked(tmp_path, monkeypatch):
    writer = StoreWriter(str(tmp_path), manifest())
    writer.check_free_space()
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(10**6, 0, 2048))
    with pytest.raises(InputError) as error:
        writer.check_free_space([0])
    assert str(error.value) == (
        f'The outputs for "{tmp_path}" need 24.4 KiB more, but only 2.0 KiB are free on that disk. '
        'Make space, choose another folder, or store fewer views or smaller tensors.'
    )


def test_float16_saturates_and_counts(tmp_path):
    of = manifest(tensors=[TensorSpec('logits', (3,), 'float16')])
    writer = StoreWriter(str(tmp_path), of)
    logits = np.zeros((4, 3), np.float32)
    logits[0] = [65504, 65519, -1e30]  # 65519 alone would be rounded down
    logits[3, 2] = 65520  # would be infinite
    assert writer.write_part(0, 0, dict(logits=logits)) == 3
    (content,) = (c for name, c in contents(tmp_path).items() if 'part_0000' in name)
    stored = np.frombuffer(content[-24:], np.float16).reshape(4, 3)
    assert stored[0].tolist() == [65504, 65504, -65504]
    assert stored[3, 2] == 65504
    assert stored[1:3].tolist() == [[0, 0, 0]] * 2


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_tensors_of_all_dtypes_are_rounded_to_the_nearest(tmp_path, dtype):
    of = manifest(tensors=[TensorSpec('x', (64,), 'float16')])
    writer = StoreWriter(str(tmp_path), of)
    x = torch.randn(64, 4, dtype=torch.float64).to(dtype).t()  # not contiguous
    assert writer.write_part(0, 0, dict(x=x.requires_grad_())) == 0
    (content,) = (c for name, c in contents(tmp_path).items() if 'part_0000' in name)
    stored = np.frombuffer(content[-512:], np.float16).reshape(4, 64)
    np.testing.assert_array_equal(stored, x.detach().double().numpy().astype(np.float16))


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
def test_values_that_are_not_finite(tmp_path, bad):
    writer = StoreWriter(str(tmp_path), manifest())
    tensors = values(manifest(), 1, [8, 9])
    tensors['embedding'][1, 2:4] = bad
    with pytest.raises(InputError) as error:
        writer.write_part(1, 2, tensors)
    assert str(error.value) == (
        '`embedding` for part 2 of view 1 of teacher "a" holds 2 values that are not finite, the '
        'first in row 1 of the part. Check the teacher with '
        'tools/analysis_tools/check_teachers.py, or run it in float32.'
    )
    assert writer.missing(1) == [0, 1, 2]


@pytest.mark.parametrize(
    ('name', 'tensor', 'sentence'),
    [
        ('logits', np.zeros((2, 4), np.float32), 'has the shape (2, 4), but must have (2, 3)'),
        ('logits', np.zeros((3, 3), np.float32), 'has the shape (3, 3), but must have (2, 3)'),
        ('logits', np.zeros((2, 3), int), 'the dtype int64, which cannot be stored as float16'),
        ('other', np.zeros((2, 3)), "are ['embedding', 'logits', 'map', 'other'], but must be"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, name, tensor, sentence):
    writer = StoreWriter(str(tmp_path), manifest())
    with pytest.raises(InputError, match=re.escape(sentence)):
        writer.write_part(0, 2, {**values(manifest(), 0, [8, 9]), name: tensor})
    assert writer.missing(0) == [0, 1, 2]


def test_a_folder_of_something_else(tmp_path):
    StoreWriter(str(tmp_path), manifest())
    with pytest.raises(InputError, match='with another augmentation seed: 0 there, 1 here'):
        StoreWriter(str(tmp_path), changed(manifest(), views__seed=1))
    with pytest.raises(InputError, match='with another part size: 4 there, 5 here'):
        StoreWriter(str(tmp_path), manifest(part_size=5))
    writer = StoreWriter(str(tmp_path), manifest(libraries=dict(torch='2.2')))
    assert writer.warnings == [f'"{tmp_path}" was stored with torch 2.1.2; here it is 2.2.']


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / 'a').write_text('')
    with pytest.raises(InputError, match=r'/a" cannot be written: File exists\.$'):
        StoreWriter(str(tmp_path / 'a'), manifest())


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    writer = StoreWriter(str(tmp_path), manifest())
    write_part(writer, 0, 0)
    before = contents(tmp_path)

    def full(handle):
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', full)
        with pytest.raises(InputError) as error:
            write_part(writer, 0, 1)
    text = str(error.value)
    assert text.startswith(
        f'"{tmp_path}/view_000/part_0001.safetensors" cannot be written: No space left on device ('
    )
    assert text.endswith(
        ' MiB free on that disk). The complete parts are kept; make space or access, and run the '
        'same again.'
    )
    assert contents(tmp_path) == before
    write_part(writer, 0, 1)
    assert writer.missing(0) == [2]


def test_a_temporary_file_that_another_host_removed(tmp_path, monkeypatch):
    writer = StoreWriter(str(tmp_path), manifest())
    replace, calls = os.replace, []

    def first_removed(source, target):
        if not calls:
            os.remove(source)
        calls.append(target)
        replace(source, target)

    monkeypatch.setattr(os, 'replace', first_removed)
    write_part(writer, 0, 0)
    assert len(calls) == 2
    assert writer.missing(0) == [1, 2]


def test_the_part_size_of_an_existing_folder_may_be_taken_over(tmp_path):
    StoreWriter(str(tmp_path), manifest(part_size=4))
    writer = StoreWriter(str(tmp_path), manifest(part_size=7), any_part_size=True)
    assert writer.manifest.part_size == 4 and writer.missing(0) == [0, 1, 2]
    with pytest.raises(InputError, match='another augmentation seed: 0 there, 1 here'):
        StoreWriter(
            str(tmp_path), changed(manifest(part_size=7), views__seed=1), any_part_size=True
        )
    new = StoreWriter(str(tmp_path / 'new'), manifest(part_size=7), any_part_size=True)
    assert new.manifest.part_size == 7


def test_bytes_of_what_is_there_and_what_is_missing(tmp_path):
    writer = StoreWriter(str(tmp_path), manifest())
    total = writer.bytes_total()
    assert total == writer.bytes_needed() == 2 * writer.bytes_needed([1])
    write_part(writer, 0, 2)
    # Two samples fewer, of 42 bytes each, and the overhead of one part of six.
    overhead = (total - 2 * 10 * 42) // 6
    assert total - writer.bytes_needed() == 2 * 42 + overhead
    assert writer.bytes_total() == total


@pytest.mark.parametrize(
    ('count', 'text'),
    [
        (0, '0 bytes'),
        (1023, '1023 bytes'),
        (1024, '1.0 KiB'),
        (1.5 * 2**20, '1.5 MiB'),
        (2**40 - 1, '1024.0 GiB'),
        (3 * 2**40, '3.0 TiB'),
    ],
)
def test_units(count, text):
    assert format_bytes(count) == text
