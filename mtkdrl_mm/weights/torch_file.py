# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Files of ``torch.save``: reading them as plain data, and writing them wholly.

``torch.load`` is not used: it passes archives of TorchScript, which are programs, to
``torch.jit.load``, it unpacks archives of any expansion, and its ``weights_only`` mode fails
for the objects that training scripts save beside the weights. Here, the size of the unpacked
data is bounded by the size of the file.
"""

import io
import os
import struct
import sys
import zipfile
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mtkdrl_mm.utils.files import atomic_write

from .plain_pickle import DamagedPickleError, Recording, UnsafePickleError

# torch.save does not compress. If a file is compressed afterwards, weights shrink by a tenth and
# text by a factor of 5. An archive with a larger expansion was made to exhaust the memory.
MAX_EXPANSION = 10
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C


def read_torch_file(file: BinaryIO) -> Any:
    """Read a file of ``torch.save``, in the zip format or the older one.

    Args:
        file (BinaryIO): The whole file; must be seekable.

    Returns:
        Any: The contents as plain data, on the CPU.

    Raises:
        UnsafePickleError: If a plain unpickler would run code.
        DamagedPickleError: If the file is damaged, truncated, in another format,
            or would exhaust the memory.
    """
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(4)
    file.seek(0)
    try:
        if start == b'PK\x03\x04':
            return _read_zip(file, size)
        if start[:1] == b'\x80':
            return _read_legacy(file, size)
    except (UnsafePickleError, DamagedPickleError):
        raise
    except Exception as error:  # bad checksums, encryption, opcodes that make no sense, ...
        raise DamagedPickleError(str(error) or type(error).__name__) from error
    raise DamagedPickleError(
        'it is empty' if not size else 'it begins like no file that torch.save writes'
    )


def write_torch_file(contents: Any, path: str | os.PathLike) -> None:
    """Write a file with ``torch.save``, completely or not at all.

    Args:
        contents (Any): What ``torch.save`` takes. There must be memory for a copy.
        path (str | PathLike): Path of the file; an existing one is replaced.

    Raises:
        OSError: If the file cannot be written. ``path`` is then unchanged.
    """
    # On a full disk torch.save would raise a RuntimeError about the positions in its archive.
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    with atomic_write(path, 'wb') as file:
        file.write(buffer.getbuffer())


def _read_zip(file: BinaryIO, size: int) -> Any:
    archive = zipfile.ZipFile(file)
    total = sum(entry.file_size for entry in archive.infolist())
    if total > MAX_EXPANSION * size + 2**20:
        raise DamagedPickleError(
            f'it would unpack {total / 2**20:.0f} MiB from {size / 2**20:.0f} MiB, more than '
            f'{MAX_EXPANSION} times its size'
        )
    names = set(archive.namelist())
    folders = [name[:-9] for name in names if name.endswith('/data.pkl') and name.count('/') == 1]
    if len(folders) != 1:
        raise DamagedPickleError('it is an archive, but not of torch.save')
    folder = folders[0]
    if any(name.startswith((f'{folder}/constants.pkl', f'{folder}/code/')) for name in names):
        raise DamagedPickleError(
            'it is an archive of TorchScript, which is a program and not a file of weights'
        )

    def read(name: str) -> bytes:
        entry = archive.getinfo(f'{folder}/{name}')
        with archive.open(entry) as part:
            # Without a number, zipfile unpacks whatever there is.
            return part.read(entry.file_size)

    if f'{folder}/byteorder' in names and read('byteorder') != sys.byteorder.encode():
        raise DamagedPickleError('it was written on a machine of the other byte order')
    recording = Recording(io.BytesIO(read('data.pkl')))
    return recording.contents({key: _bytes(read(f'data/{key}')) for key in recording.dtypes})


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data or b'0'), dtype=torch.uint8)[: len(data)]


def _read_legacy(file: BinaryIO, size: int) -> Any:
    """Read consecutive pickles (magic number, version, system, contents, keys) and raw bytes."""

    def read(count: int) -> bytes:
        if not 0 <= count <= size - file.tell():
            raise DamagedPickleError('it ends too early')
        return file.read(count)

    def read_pickle() -> Any:
        return Recording(file).contents({})

    if read_pickle() != _MAGIC_NUMBER:
        raise DamagedPickleError('it is a pickle, but not of torch.save')
    read_pickle()  # the version
    system = read_pickle()
    if isinstance(system, dict) and system.get('little_endian') != (sys.byteorder == 'little'):
        raise DamagedPickleError('it was written on a machine of the other byte order')
    recording = Recording(file)
    storages = {}
    for key in read_pickle():
        (count,) = struct.unpack('<q', read(8))
        storages[key] = _bytes(read(count * recording.dtypes[key].itemsize))
    return recording.contents(storages)
