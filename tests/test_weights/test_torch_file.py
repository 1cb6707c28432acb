# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What torch.save writes is read to the bit; what only looks like it is refused, cheaply."""

import copy
import io
import os
import pickle
import resource
import struct
import zipfile

import pytest
import torch

from mtkdrl_mm.weights.plain_pickle import DamagedPickleError, UnsafePickleError
from mtkdrl_mm.weights.torch_file import read_torch_file, write_torch_file


def saved(contents, zipped=True):
    file = io.BytesIO()
    torch.save(contents, file, _use_new_zipfile_serialization=zipped)
    return file


def read(data):
    return read_torch_file(io.BytesIO(data))


def repacked(contents, change=lambda name, data: data, compression=zipfile.ZIP_DEFLATED):
    """The same archive, packed anew."""
    out = io.BytesIO()
    with zipfile.ZipFile(saved(contents)) as old, zipfile.ZipFile(out, 'w', compression) as new:
        for entry in old.infolist():
            data = change(entry.filename.split('/', 1)[1], old.read(entry))
            if data is not None:
                new.writestr(entry.filename, data)
    return out.getvalue()


class Network(torch.nn.Module):
    """Of this file, which a reader does not have."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        self.register_buffer('kept', torch.arange(3))
        self.register_buffer('dropped', torch.ones(1), persistent=False)
        self.nothing = None


@pytest.mark.parametrize('zipped', [True, False])
def test_tensors_of_all_kinds(zipped):
    whole = torch.arange(24.0).view(2, 3, 4)
    contents = dict(
        strided=whole[:, 1:, ::2],
        transposed=whole.transpose(0, 2),
        whole=whole,
        scalar=torch.tensor(3.5),
        empty=torch.empty(0, 3),
        expanded=torch.ones(1).expand(4, 5),
        flags=torch.tensor([True, False]),
        complex=torch.tensor([1 + 2j]),
        uint8=torch.arange(3, dtype=torch.uint8),
        parameter=torch.nn.Parameter(torch.ones(2), requires_grad=False),
        bf16=torch.ones(3, dtype=torch.bfloat16),
    )
    found = read_torch_file(saved(contents, zipped))
    for key, value in contents.items():
        assert torch.equal(found[key], value) and found[key].dtype == value.dtype, key
    # Parts of one storage still share it.
    found['whole'][0, 1, 0] = -1
    assert found['strided'][0, 0, 0] == -1
    assert isinstance(found['parameter'], torch.nn.Parameter)
    assert not found['parameter'].requires_grad


@pytest.mark.parametrize('zipped', [True, False])
def test_whole_networks_give_their_state_dict(zipped):
    network = Network()
    found = read_torch_file(saved(dict(model=network, epoch=3), zipped))
    assert found['epoch'] == 3 and found['model'].keys() == network.state_dict().keys()
    for key, value in network.state_dict().items():
        assert torch.equal(found['model'][key], value)


def test_versions_of_modules_are_kept():
    state = Network().state_dict()
    assert read_torch_file(saved(state))._metadata == state._metadata


@pytest.mark.parametrize('zipped', [True, False])
def test_truncated_at_every_place(zipped):
    data = saved(dict(weight=torch.randn(20), name='x'), zipped).getvalue()
    for length in range(0, len(data) - 1, 7):
        with pytest.raises(DamagedPickleError):
            read(data[:length])


@pytest.mark.parametrize('zipped', [True, False])
def test_flipped_bytes(zipped):
    data = saved(dict(weight=torch.arange(200.0), name='x'), zipped).getvalue()
    for place in range(0, len(data), 11):
        changed = bytearray(data)
        changed[place] ^= 0x55
        try:
            read(bytes(changed))
        except (DamagedPickleError, UnsafePickleError):
            pass


def test_a_damaged_tensor_is_noticed():
    data = bytearray(saved(dict(weight=torch.full((1000,), 7.0))).getvalue())
    place = data.index(struct.pack('<f', 7.0) * 100)
    data[place + 50] ^= 1
    with pytest.raises(DamagedPickleError, match=r"Bad CRC-32 for file '.*/data/0'"):
        read(bytes(data))


def test_an_ordinary_archive_may_be_compressed():
    contents = dict(weight=torch.randn(1000))
    assert torch.equal(read(repacked(contents))['weight'], contents['weight'])


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_bombs_are_refused_before_they_are_unpacked():
    before = peak_mib()

    def blow_up(name, data):
        return bytes(300 * 2**20) if name == 'data/0' else data

    bomb = repacked(dict(weight=torch.zeros(4)), blow_up)
    assert len(bomb) < 2**20
    before = peak_mib()
    with pytest.raises(DamagedPickleError, match='would unpack 300 MiB from 0 MiB, more than 10'):
        read(bomb)
    assert peak_mib() - before < 50


def test_an_archive_cannot_hide_its_size():
    # The directory says one byte, the entry holds 200 MiB.
    bomb = bytearray(
        repacked(
            dict(weight=torch.zeros(4)),
            lambda name, data: bytes(200 * 2**20) if name == 'data/0' else data,
        )
    )
    size = struct.pack('<I', 200 * 2**20)
    while size in bomb:
        place = bomb.index(size)
        bomb[place : place + 4] = struct.pack('<I', 16)
    before = peak_mib()
    with pytest.raises(DamagedPickleError):
        read(bytes(bomb))
    assert peak_mib() - before < 100


def test_overlapping_entries_count_each_time():
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as archive:
        archive.writestr('a/data.pkl', pickle.dumps({}, 2))
        archive.writestr('a/data/0', bytes(2**20))
        for number in range(1, 30):  # of the directory alone: all lead to the same bytes
            entry = copy.copy(archive.getinfo('a/data/0'))
            entry.filename = f'a/data/{number}'
            archive.filelist.append(entry)
    with pytest.raises(DamagedPickleError, match='would unpack 30 MiB from 1 MiB'):
        read(out.getvalue())


def test_torchscript_is_refused(tmp_path):
    class Doubles(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    torch.jit.save(torch.jit.script(Doubles()), str(tmp_path / 'x.pth'))
    with pytest.raises(DamagedPickleError, match='archive of TorchScript, which is a program'):
        read((tmp_path / 'x.pth').read_bytes())


def hand_made(pickled, storages=None):
    """An archive with a pickle of one's own."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as archive:
        archive.writestr('a/data.pkl', pickled)
        for name, data in (storages or {'0': bytes(16)}).items():
            archive.writestr(f'a/data/{name}', data)
    return out.getvalue()


def tensor(size, stride, count=4, offset=0, kind='FloatStorage', key='0'):
    """The opcodes of a tensor, whatever its numbers."""
    number = lambda n: b'\x8a\x08' + struct.pack('<q', n)  # noqa: E731
    numbers = lambda ns: b'(' + b''.join(map(number, ns)) + b't'  # noqa: E731
    text = lambda s: b'X' + struct.pack('<I', len(s)) + s.encode()  # noqa: E731
    storage = b'(' + text('storage') + f'ctorch\n{kind}\n'.encode() + text(key) + text('cpu')
    return (
        b'\x80\x02}'
        + text('w')
        + b'ctorch._utils\n_rebuild_tensor_v2\n('
        + storage
        + number(count)
        + b'tQ'
        + number(offset)
        + numbers(size)
        + numbers(stride)
        + b'\x89}tRs.'
    )


@pytest.mark.parametrize(
    ('opcodes', 'message'),
    [
        (tensor((5,), (1,)), 'does not fit in its 16 bytes'),
        (tensor((4,), (1,), offset=1), 'does not fit in its 16 bytes'),
        (tensor((2, 2), (4, 1)), 'does not fit in its 16 bytes'),
        (tensor((2**61,), (1,)), 'does not fit in its 16 bytes'),
        (tensor((2**40,), (0,)), 'repeats its 16 bytes'),
        (tensor((2**31, 2**31, 2), (0, 0, 0)), 'repeats its 16 bytes'),
        (tensor((-1,), (1,)), 'is not possible'),
        (tensor((2,), (-1,)), 'is not possible'),
        (tensor((2,), (1,), offset=-1), 'is not possible'),
        (tensor((2, 2), (1,)), 'is not possible'),
        (tensor((4,), (1,), count=5), 'storage "0" is shorter than described'),
        (tensor((4,), (1,), count=2**60), 'storage "0" is shorter than described'),
        (tensor((4,), (1,), key='1'), r"no item named 'a/data/1'"),
        (tensor((4,), (1,), key='../../a'), 'no item named'),
        (tensor((4,), (1,), kind='NoStorage'), 'a storage of an unknown type'),
    ],
)
def test_tensors_that_are_not_there(opcodes, message):
    with pytest.raises(DamagedPickleError, match=message):
        read(hand_made(opcodes))


def test_the_hand_made_archive_is_right():
    data = struct.pack('<4f', 1, 2, 3, 4)
    found = read(hand_made(tensor((2, 2), (2, 1)), {'0': data}))
    assert torch.equal(found['w'], torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


def legacy(contents, changes):
    """A file of the old form whose head is changed."""
    data = saved(contents, zipped=False).getvalue()
    for old, new in changes:
        assert data.count(old) >= 1
        data = data.replace(old, new)
    return data


def test_legacy_files_that_lie_about_their_size():
    weights = dict(weight=torch.arange(300.0))
    many = b'\x8a\x06' + struct.pack('<q', 2**40)[:6]
    before = peak_mib()
    with pytest.raises(DamagedPickleError, match='is shorter than described'):
        read(legacy(weights, [(b'M' + struct.pack('<H', 300), many)]))
    data = saved(weights, zipped=False).getvalue()
    place = data.rindex(struct.pack('<q', 300))
    with pytest.raises(DamagedPickleError, match='ends too early'):
        read(data[:place] + struct.pack('<q', 2**40) + data[place + 8 :])
    assert peak_mib() - before < 50


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'', 'it is empty'),
        (b'PK\x03\x04', 'not a zip file'),
        (b'<html>', 'begins like no file that torch.save writes'),
        (pickle.dumps(dict(a=1), 2), 'it is a pickle, but not of torch.save'),
        (b'\x80', 'ends too early|not enough|empty|exhausted|pickle'),
    ],
)
def test_other_files(data, message):
    with pytest.raises(DamagedPickleError, match=message):
        read(data)


def test_an_archive_of_something_else():
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as archive:
        archive.writestr('photo.txt', 'x')
    with pytest.raises(DamagedPickleError, match=r'an archive, but not of torch\.save'):
        read(out.getvalue())


def test_the_other_byte_order():
    def swap(name, data):
        return b'big' if name == 'byteorder' else data

    with pytest.raises(DamagedPickleError, match='other byte order'):
        read(repacked(dict(a=torch.ones(2)), swap))


def test_a_file_is_written_wholly_or_not_at_all(tmp_path):
    path = tmp_path / 'a.pth'
    write_torch_file(dict(a=torch.arange(3)), path)
    assert read(path.read_bytes())['a'].tolist() == [0, 1, 2]
    before = path.read_bytes()
    (tmp_path / 'a.pth.tmp').symlink_to('/dev/full')
    with pytest.raises(OSError, match='No space left') as error:
        write_torch_file(dict(a=torch.arange(4)), path)
    assert error.value.filename == str(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ['a.pth']
