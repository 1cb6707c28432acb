# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Parts: readable by safetensors, a function of their contents, and never read if damaged."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy

from mtkdrl_mm.teacher_outputs.part_file import encode_part, read_header, verify_part
from mtkdrl_mm.utils import InputError

from .stores import changed, manifest, values

ROWS = [4, 5, 6, 7]


def encoded(of, view=0, part=1):
    return encode_part(of, view, part, values(of, view, list(of.samples(part))))


def check(content, of, view=0, part=1):
    """Check a file as a reader does; it is in memory, since thousands are checked."""
    handle = os.memfd_create('part')
    try:
        os.pwrite(handle, content, 0)
        header = read_header(handle, 'x', of, view, part)
        verify_part(handle, 'x', of, header)
        return header
    finally:
        os.close(handle)


def test_safetensors_reads_it():
    tensors = safetensors.numpy.load(encoded(manifest()))
    expected = values(manifest(), 0, ROWS)
    assert set(tensors) == set(expected)
    for name, array in expected.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array)


def test_the_offsets_are_those_of_the_rows():
    of = manifest()
    content = encoded(of)
    header = check(content, of)
    expected = values(of, 0, ROWS)
    assert header.rows == 4
    for spec, offset in zip(of.tensors, header.offsets):
        count = expected[spec.name].size
        array = np.frombuffer(content, spec.dtype, count, offset)
        np.testing.assert_array_equal(array, expected[spec.name].reshape(-1))


def test_the_bytes_depend_on_the_contents_alone():
    of = manifest()
    arrays = values(of, 0, ROWS)
    backwards = dict(reversed(arrays.items()))
    other_libraries = manifest(libraries={})
    assert encode_part(of, 0, 1, arrays) == encode_part(other_libraries, 0, 1, backwards)
    assert encode_part(of, 0, 1, arrays) != encode_part(of, 1, 1, arrays)


def test_every_flipped_bit_is_found():
    of = manifest()
    content = encoded(of)
    header_end = 8 + int.from_bytes(content[:8], 'little')
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            # Checksums are hexadecimal numbers, in which a capital letter changes nothing.
            capital = position < header_end and bit == 5 and chr(damaged[position]) in 'ABCDEF'
            if capital:
                continue
            with pytest.raises(InputError) as error:
                check(damaged, of)
            assert str(error.value).startswith('"x" ')


def test_every_truncated_file_is_found():
    of = manifest()
    content = encoded(of)
    for length in range(len(content)):
        with pytest.raises(InputError, match='"x" is damaged: '):
            check(content[:length], of)
    with pytest.raises(InputError) as error:
        check(content[:-1], of)
    assert str(error.value) == (
        f'"x" is damaged: it is truncated, with {len(content) - 1} instead of '
        f'{len(content)} bytes. Remove it, and run the tool that wrote the store again: it writes '
        'what is missing.'
    )
    with pytest.raises(InputError, match=f'is too long, with {len(content) + 1} instead of'):
        check(content + b'0', of)


def test_a_swapped_file_is_named():
    of = manifest()
    for view, part, name in ((1, 1, 'a'), (0, 0, 'a'), (0, 1, 'b')):
        with pytest.raises(InputError) as error:
            check(encoded(manifest(name), view, part), of)
        assert str(error.value) == (
            f'"x" holds part {part} of view {view} of teacher "{name}", and should hold '
            'part 1 of view 0 of teacher "a". Remove it, and run the tool that wrote the store '
            'again: it writes what is missing.'
        )


def test_a_part_of_another_store():
    other = changed(manifest(), teacher__weights_sha256='77' * 32)
    with pytest.raises(InputError, match='"x" was written for another store: other weights, data'):
        check(encoded(other), manifest())


def test_a_file_of_weights():
    content = safetensors.numpy.save(dict(logits=np.zeros(3, np.float32)))
    with pytest.raises(InputError, match='"x" is damaged: its header cannot be read'):
        check(content, manifest())
    with pytest.raises(InputError, match='"x" is damaged: it begins like no safetensors file'):
        check(b'PK' + bytes(1000), manifest())


def test_positions_outside_of_the_file():
    of = manifest()
    content = encoded(of)
    length = int.from_bytes(content[:8], 'little')
    header = json.loads(content[8 : 8 + length])
    begin, end = header['logits']['data_offsets']
    for offsets in ([begin + 8, end + 8], [-8, end - begin - 8], [0.0, float(end - begin)]):
        header['logits']['data_offsets'] = offsets
        text = json.dumps(header).encode()
        damaged = len(text).to_bytes(8, 'little') + text + content[8 + length :]
        with pytest.raises(InputError, match='the position of its "logits" is impossible'):
            check(damaged, of)
