# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Files of a store: encoding, and checks of what is read.

A part is a safetensors file. Its metadata hold its identity (teacher, view,
part, digest of the manifest) and a checksum per tensor, so that a file that was
damaged, or moved under another name, is found. They have a single key, because
the order of several would not be fixed: the bytes of a part depend on its
contents alone.
"""

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy

from mtkdrl_mm.utils.errors import InputError

from .manifest import Manifest

_KEY = 'mtkdrl_mm'
_DTYPES = {'F16': 'float16', 'F32': 'float32', 'U32': 'uint32'}
# The header of a part has some hundred bytes per tensor.
_MAX_HEADER = 2**20
_CHUNK = 2**22
_REPAIR = 'Remove it, and run the tool that wrote the store again: it writes what is missing.'


@dataclass(frozen=True)
class PartHeader:
    """What is needed of a part's header to read its rows.

    Attributes:
        offsets (tuple[int, ...]): Position of each tensor in the file, in bytes,
            in the order of the manifest.
        crc32 (tuple[int, ...]): Checksum of each tensor.
        rows (int): Number of samples.
    """

    offsets: tuple[int, ...]
    crc32: tuple[int, ...]
    rows: int


def encode_part(
    manifest: Manifest, view: int, part: int, arrays: Mapping[str, np.ndarray]
) -> bytes:
    """Encode a part.

    Args:
        manifest (Manifest): Manifest of the folder.
        view (int): Number of the view.
        part (int): Number of the part.
        arrays (Mapping[str, np.ndarray]): The tensors of the manifest, each of
            shape (samples of the part, *shape), contiguous and of its dtype.

    Returns:
        bytes: Contents of the file.
    """
    identity = _identity(manifest, view, part)
    # As bytes: zlib takes no float16.
    sums = {
        spec.name: f'{zlib.crc32(arrays[spec.name].reshape(-1).view(np.uint8).data):08x}'
        for spec in manifest.tensors
    }
    text = json.dumps({**identity, 'crc32': sums}, sort_keys=True)
    tensors = {spec.name: arrays[spec.name] for spec in manifest.tensors}
    return safetensors.numpy.save(tensors, {_KEY: text})


def _identity(manifest: Manifest, view: int, part: int) -> dict[str, Any]:
    return dict(contents=manifest.role, manifest=manifest.identity, part=part, view=view)


def read_header(handle: int, path: str, manifest: Manifest, view: int, part: int) -> PartHeader:
    """Read and check the header of a part.

    Args:
        handle (int): The open file.
        path (str): Its path, for messages.
        manifest (Manifest): Manifest of the folder.
        view (int): Number of the view that it should hold.
        part (int): Number of the part that it should be.

    Returns:
        PartHeader: The positions of its tensors.

    Raises:
        InputError: If the file is truncated, damaged, another part, or of
            another store.
    """
    try:
        size = os.fstat(handle).st_size
        start = 8 + int.from_bytes(os.pread(handle, 8, 0), 'little')
        if size < 8 or start > min(size, _MAX_HEADER):
            raise _DamageError('it begins like no safetensors file, or ends within its header')
        header = json.loads(os.pread(handle, start - 8, 8))
        found = json.loads(header.pop('__metadata__')[_KEY])
        sums = found.pop('crc32')
        expected = _identity(manifest, view, part)
        if found != expected:
            raise InputError(_not_this_part(path, found, expected))
        rows = len(manifest.samples(part))
        return _check_tensors(header, sums, manifest, rows, start, size)
    except _DamageError as damage:
        raise _damaged(path, str(damage)) from None
    except InputError:
        raise
    except OSError as error:
        raise InputError(f'"{path}" cannot be read: {error.strerror or error}.') from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, 'its header cannot be read') from error


def _check_tensors(
    header: dict[str, Any],
    sums: dict[str, str],
    manifest: Manifest,
    rows: int,
    start: int,
    size: int,
) -> PartHeader:
    """Compare the header's tensors with the manifest's and with the size of the file."""
    offsets, crc32 = [], []
    for spec in manifest.tensors:
        entry = header[spec.name]
        begin, end = entry['data_offsets']
        shape, nbytes = [rows, *spec.shape], rows * spec.row_bytes
        if _DTYPES.get(entry['dtype']) != spec.dtype or entry['shape'] != shape:
            raise _DamageError(f'its "{spec.name}" has another shape or dtype than in the manifest')
        if not isinstance(begin, int) or end - begin != nbytes:
            raise _DamageError(f'the position of its "{spec.name}" is impossible')
        offsets.append(start + begin)
        crc32.append(int(sums[spec.name], 16))
    if len(header) != len(offsets) or len(sums) != len(offsets):
        raise _DamageError('it holds other tensors than the manifest')
    needed = start + rows * manifest.row_bytes
    if size != needed:
        kind = 'is truncated' if size < needed else 'is too long'
        raise _DamageError(f'it {kind}, with {size} instead of {needed} bytes')
    # Tensors one after the other, without gaps: no byte is unchecked, and none is read twice.
    position = start
    for offset, spec in sorted(zip(offsets, manifest.tensors), key=lambda pair: pair[0]):
        if offset != position:
            raise _DamageError(f'the position of its "{spec.name}" is impossible')
        position += rows * spec.row_bytes
    return PartHeader(tuple(offsets), tuple(crc32), rows)


def verify_part(handle: int, path: str, manifest: Manifest, header: PartHeader) -> None:
    """Compare the checksums of a part, by reading all of it.

    Args:
        handle (int): The open file.
        path (str): Its path, for messages.
        manifest (Manifest): Manifest of the folder.
        header (PartHeader): Its header.

    Raises:
        InputError: If a checksum differs.
    """
    for spec, offset, expected in zip(manifest.tensors, header.offsets, header.crc32):
        checksum, left = 0, header.rows * spec.row_bytes
        while left:
            try:
                chunk = os.pread(handle, min(left, _CHUNK), offset)
            except OSError as error:
                raise InputError(f'"{path}" cannot be read: {error.strerror or error}.') from error
            if not chunk:
                raise _damaged(path, 'it was truncated while it was read')
            checksum = zlib.crc32(chunk, checksum)
            offset += len(chunk)
            left -= len(chunk)
        if checksum != expected:
            raise _damaged(path, f'its "{spec.name}" does not have its checksum')


class _DamageError(Exception):
    """Reason why a file is no part."""


def _damaged(path: str, reason: str) -> InputError:
    return InputError(f'"{path}" is damaged: {reason}. {_REPAIR}')


def _not_this_part(path: str, found: Any, expected: dict[str, Any]) -> str:
    places = ('contents', 'view', 'part')
    if any(found.get(key) != expected[key] for key in places):
        what, should = (
            f'part {side.get("part")} of view {side.get("view")} of {side.get("contents")}'
            for side in (found, expected)
        )
        return f'"{path}" holds {what}, and should hold {should}. {_REPAIR}'
    return (
        f'"{path}" was written for another store: other weights, data set, pipeline, seeds or '
        f'tensors than in the manifest of its folder. {_REPAIR}'
    )


def missing_part(path: str) -> InputError:
    """Error about a part that does not exist."""
    return InputError(
        f'"{path}" does not exist: this view is not complete. Run the tool that writes the store '
        'again: it writes what is missing.'
    )


def truncated_part(path: str) -> InputError:
    """Error about a part that has become shorter since it was opened."""
    return _damaged(path, 'it was truncated while it was read')
