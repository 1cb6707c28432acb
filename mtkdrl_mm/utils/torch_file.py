# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The files that ``torch.save`` writes, read as data.

``torch.load`` is not used: it hands archives of TorchScript, which are programs, to
``torch.jit.load``, it unpacks whatever a small archive says it holds, and its own
``weights_only`` mode refuses what training scripts leave beside the weights. What is read
here is bounded by the size of the file.
"""

import io
import struct
import sys
import zipfile
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .plain_pickle import DamagedPickleError, Storage, dtype_of, load_plain

# torch.save does not compress; packed anew, weights shrink by a tenth, and texts by a factor
# of 5. An archive that holds more than this many times its own size was made to fill memory.
MAX_EXPANSION = 10
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_MAX_HEADER = 2**20


def read_torch_file(file: BinaryIO) -> Any:
    """Read a file of ``torch.save``, of the zip form or the older one.

    Args:
        file (BinaryIO): The whole file; can be sought.

    Returns:
        Any: What was saved, as data, on the CPU.

    Raises:
        UnsafePickleError: If it would run code when read carelessly.
        DamagedPickleError: If it is damaged, truncated, of another kind, or
            packed so that it would fill the memory.
    """
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(4)
    file.seek(0)
    if start == b'PK\x03\x04':
        return _read_zip(file, size)
    if start[:1] == b'\x80':
        return _read_legacy(file, size)
    raise DamagedPickleError(
        'it is empty' if not size else 'it begins like no file that torch.save writes'
    )


def _read_zip(file: BinaryIO, size: int) -> Any:
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, OSError, struct.error) as error:
        raise DamagedPickleError(str(error)) from error
    entries = {entry.filename: entry for entry in archive.infolist()}
    total = sum(entry.file_size for entry in archive.infolist())
    if total > MAX_EXPANSION * size + 2**20:
        raise DamagedPickleError(
            f'it would unpack {total / 2**20:.0f} MiB from {size / 2**20:.0f} MiB, more than '
            f'{MAX_EXPANSION} times its size'
        )
    folders = {name.split('/')[0] for name in entries if name.count('/') == 1}
    main = [folder for folder in sorted(folders) if f'{folder}/data.pkl' in entries]
    if len(main) != 1:
        raise DamagedPickleError('it is an archive, but not of torch.save')
    folder = main[0]
    names = [name.removeprefix(f'{folder}/') for name in entries]
    if 'constants.pkl' in names or any(name.startswith('code/') for name in names):
        raise DamagedPickleError(
            'it is an archive of TorchScript, which is a program and not a file of weights'
        )

    def read(name: str) -> bytes:
        if f'{folder}/{name}' not in entries:
            raise DamagedPickleError(f'its part "{name}" is missing')
        entry = entries[f'{folder}/{name}']
        try:
            with archive.open(entry) as part:
                # Without a number, zipfile unpacks whatever there is.
                return part.read(entry.file_size)
        except Exception as error:  # bad checksums, unknown compression, encryption, ...
            raise DamagedPickleError(f'its part "{name}": {error}') from error

    if 'byteorder' in names and read('byteorder') != sys.byteorder.encode():
        raise DamagedPickleError('it was written on a machine of the other byte order')
    storages: dict[str, Storage] = {}

    def storage(description: Any) -> Storage:
        _, kind, key, _, count = description[:5]
        if key not in storages:
            dtype = dtype_of(kind)
            wanted = count * torch.empty(0, dtype=dtype).element_size()
            data = _bytes_tensor(read(f'data/{key}'))
            if data.numel() < wanted:
                raise DamagedPickleError(f'its part "data/{key}" is shorter than described')
            storages[key] = Storage(data, dtype)
        return storages[key]

    pickled = read('data.pkl')
    return load_plain(io.BytesIO(pickled), len(pickled), storage)


def _bytes_tensor(data: bytes) -> Tensor:
    tensor = torch.empty(len(data), dtype=torch.uint8)
    if data:
        memoryview(tensor.numpy())[:] = data
    return tensor


class _Bounded:
    """A file that never reads, or makes room for, more than there is."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = size

    def read(self, count: int) -> bytes:
        if count < 0 or count > self.size - self.file.tell():
            raise DamagedPickleError('it ends too early')
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline(_MAX_HEADER)

    def tell(self) -> int:
        return self.file.tell()


def _read_legacy(file: BinaryIO, size: int) -> Any:
    """Pickles one after the other: a number, a version, sizes, the contents; then raw bytes."""
    source: Any = _Bounded(file, size)
    if load_plain(source, _MAX_HEADER) != _MAGIC_NUMBER:
        raise DamagedPickleError('it is a pickle, but not of torch.save')
    load_plain(source, _MAX_HEADER)  # the version
    system = load_plain(source, _MAX_HEADER)
    if isinstance(system, dict) and system.get('little_endian') != (sys.byteorder == 'little'):
        raise DamagedPickleError('it was written on a machine of the other byte order')
    storages: dict[str, Storage] = {}
    counts: dict[str, int] = {}
    room = size

    def storage(description: Any) -> Storage:
        nonlocal room
        _, kind, key, _, count, *view = description
        if any(part is not None for part in view):
            raise DamagedPickleError('it has views of storages, which torch wrote before 0.4')
        if key not in storages:
            dtype = dtype_of(kind)
            wanted = count * torch.empty(0, dtype=dtype).element_size()
            room -= wanted
            if type(count) is not int or count < 0 or room < 0:
                raise DamagedPickleError('it ends too early')
            storages[key] = Storage(torch.empty(wanted, dtype=torch.uint8), dtype)
            counts[key] = count
        return storages[key]

    contents = load_plain(source, size, storage)
    keys = load_plain(source, size)
    if not isinstance(keys, list) or set(storages) - set(keys):
        raise DamagedPickleError('its list of storages is incomplete')
    for key in keys:
        (count,) = struct.unpack('<q', source.read(8))
        if key not in storages or count != counts[key]:
            raise DamagedPickleError('its storages are not those that it describes')
        data = storages[key].data
        if data.numel():
            memoryview(data.numpy())[:] = source.read(data.numel())
    return contents
