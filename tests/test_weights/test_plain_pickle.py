# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Pickles are read as data, whatever they name."""

import argparse
import datetime
import enum
import functools
import io
import pathlib
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque

import addict
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from mtkdrl_mm.weights import plain_pickle
from mtkdrl_mm.weights.plain_pickle import DamagedPickleError, Recording, UnsafePickleError
from mtkdrl_mm.weights.torch_file import read_torch_file

PROTOCOLS = range(6)


def read(pickled):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, 'w') as file:
        file.writestr('a/data.pkl', pickled)
    return read_torch_file(archive)


class Calls:
    """Calls something when it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Phase(enum.Enum):
    TRAIN = 1
    test = 2


class Settings(dict):
    pass


class Slots:
    __slots__ = ('a',)


class Inner:
    class Config:
        pass


# What may be called by name: (module, name). Nothing of it may be imported or run.
CALLS = [
    ('os', 'system'),
    ('posix', 'system'),
    ('nt', 'system'),
    ('os', 'execv'),
    ('builtins', 'eval'),
    ('builtins', 'exec'),
    ('builtins', 'compile'),
    ('builtins', '__import__'),
    ('builtins', 'open'),
    ('builtins', 'getattr'),
    ('__builtin__', 'eval'),
    ('__builtin__', 'apply'),
    ('subprocess', 'Popen'),
    ('commands', 'Popen'),
    ('commands', 'getoutput'),
    ('subprocess', 'check_output'),
    ('importlib', 'import_module'),
    ('runpy', 'run_path'),
    ('webbrowser', 'open'),
    ('shutil', 'rmtree'),
    ('pickle', 'loads'),
    ('_pickle', 'loads'),
    ('marshal', 'loads'),
    ('pty', 'spawn'),
    ('ctypes', 'CDLL'),
    ('multiprocessing.util', 'spawnv_passfds'),
    ('timeit', 'timeit'),
    ('cProfile', 'run'),
    ('pdb', 'run'),
    ('operator', 'methodcaller'),
    ('functools', 'reduce'),
    ('types', 'CodeType.replace'),
    ('torch.hub', 'load'),
    ('torch.jit', 'load'),
    ('torch', 'load'),
    ('torch', 'os.system'),
    ('torch', 'serialization.os.system'),
    ('torch', 'serialization.pickle.Unpickler'),
    ('torch.serialization', 'load'),
    ('torch.storage', '_load_from_bytes'),
    ('torch._dynamo.guards', 'GuardBuilder.__import__'),
    ('numpy', 'load'),
    ('numpy', 'fromfile'),
    ('numpy.testing._private.utils', 'runstring'),
    ('mmengine', 'load'),
    ('mmengine.config', 'Config.fromstring'),
    ('mmengine.utils', 'install_package'),
    ('timm.models', 'load_checkpoint'),
    ('__main__', 'function'),
    ('no_such_module', 'function'),
]


def forms(module, name, argument='touch marker'):
    """The ways in which a pickle calls a function."""
    m, n, a = module.encode(), name.encode(), argument.encode()
    text = b'X' + struct.pack('<I', len(a)) + a
    short = lambda s: b'\x8c' + bytes([len(s)]) + s  # noqa: E731
    return {
        'reduce': b'\x80\x02c' + m + b'\n' + n + b'\n' + text + b'\x85R.',
        'stack global': b'\x80\x04' + short(m) + short(n) + b'\x93' + text + b'\x85R.',
        'inst': b'(' + text + b'i' + m + b'\n' + n + b'\n.',
        'obj': b'\x80\x02(c' + m + b'\n' + n + b'\n' + text + b'o.',
        'inside': b'\x80\x02}' + short(b'a') + b'c' + m + b'\n' + n + b'\n' + text + b'\x85Rs.',
        'memo': b'\x80\x02c' + m + b'\n' + n + b'\nq\x010h\x01' + text + b'\x85R.',
    }


@pytest.mark.parametrize(('module', 'name'), CALLS)
def test_calls_of_functions_are_refused(module, name):
    read(pickle.dumps({}))  # zipfile imports an encoding when it is first used
    before = set(sys.modules)
    for form, pickled in forms(module, name).items():
        with pytest.raises(UnsafePickleError, match='is not plain data') as error:
            read(pickled)
        assert name in str(error.value) or 'getattr' in str(error.value), form
    assert set(sys.modules) == before  # nothing was imported either


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_real_payloads_do_not_run(tmp_path, protocol):
    marker = tmp_path / 'was_run'
    payloads = [
        Calls(eval, f'open({str(marker)!r}, "w")'),
        Calls(exec, f'open({str(marker)!r}, "w")'),
        Calls(subprocess.Popen, ['touch', str(marker)]),
        Calls(functools.partial(open, str(marker)), 'w'),
        Calls(functools.reduce, getattr, ['os', 'system']),
        Calls(map, eval, [f'open({str(marker)!r}, "w")']),
    ]
    for payload in payloads:
        for contents in (payload, {'a': [payload]}, (payload,), Settings(a=payload)):
            with pytest.raises(UnsafePickleError):
                read(pickle.dumps(contents, protocol))
    assert not marker.exists()


def test_a_mere_mention_of_a_dangerous_function_is_refused():
    with pytest.raises(UnsafePickleError, match=r'subprocess\.run is not plain data'):
        read(pickle.dumps({'hook': subprocess.run}))


def test_methods_of_what_is_read_are_not_called():
    # BUILD would set attributes that shadow methods.
    ordered = b'\x80\x02ccollections\nOrderedDict\n)RX\x01\x00\x00\x00aK\x01s'
    contents = read(ordered + b'}X\x05\x00\x00\x00itemsK\x05sb.')
    assert list(contents.items()) == [('a', 1)]
    for opcodes in (b'\x80\x02]}b.', b'\x80\x02K\x01}b.', b'\x80\x02X\x01\x00\x00\x00a}b.'):
        with pytest.raises(DamagedPickleError):
            read(opcodes)


KEY = b'X\x01\x00\x00\x00a'
NAMED = [
    ('no_such_module', 'Class'),
    ('no_such_module', 'function'),
    ('_codecs', 'encode'),
    ('builtins', 'getattr'),
    ('collections', 'OrderedDict'),
    ('mmengine.logging.history_buffer', 'HistoryBuffer'),
    ('torch', 'float32'),
    ('torch', 'FloatStorage'),
    ('torch._utils', '_rebuild_tensor_v2'),
]


@pytest.mark.parametrize(('module', 'name'), NAMED)
@pytest.mark.parametrize(
    'change',
    [
        b'}' + KEY + b'K\x01sb',  # BUILD with attributes
        b'N}X\x0c\x00\x00\x00__defaults__)s\x86b',  # BUILD with slots
        KEY + b'K\x01s',
        b'(' + KEY + b'K\x01u',
        KEY + b'a',
        b'(' + KEY + b'e',
        b'(' + KEY + b'\x90',
    ],
)
def test_what_stands_for_a_name_cannot_be_changed(module, name, change):
    with pytest.raises(DamagedPickleError):
        read(b'\x80\x02c' + f'{module}\n{name}\n'.encode() + change + b'.')
    # It would outlast the file.
    array = dict(a=np.arange(3), b=HistoryBuffer([1.0], [1]), c=torch.float32, d=OrderedDict(a=1))
    found = read(pickle.dumps(array, 2))
    np.testing.assert_array_equal(found['a'], [0, 1, 2])
    assert found['b'].data[0] == [1.0] and found['c'] is torch.float32 and found['d'] == {'a': 1}


def test_only_records_can_be_called():
    """Whatever the name, what the unpickler gets is a class whose objects do nothing."""
    recording = Recording(io.BytesIO(b'N.'))
    for module, name in [*NAMED, ('numpy', 'ndarray'), ('builtins', 'dict'), ('x', 'X.y.Z')]:
        found = recording.find_class(module, name)
        assert issubclass(found, plain_pickle._Record)
    for found in plain_pickle._NAMES.values():
        assert issubclass(found, plain_pickle._Record)
        assert found.__dictoffset__ == 0  # no attributes to set


LEFTOVERS = dict(
    args=argparse.Namespace(lr=0.1, path=pathlib.Path('/a'), when=datetime.datetime(2020, 1, 1)),
    path=pathlib.PurePosixPath('/a/b'),
    date=datetime.date(2020, 1, 1),
    delta=datetime.timedelta(1),
    phase=Phase.TRAIN,
    other_phase=Phase.test,
    partial=functools.partial(int, base=2),
    queue=deque([1, 2], maxlen=3),
    slots=Slots(),
    inner=Inner.Config(),
    kind=int,
    method=HistoryBuffer.mean,
    generator=np.random.RandomState(0),
    new_generator=np.random.default_rng(0),
    objects=np.array([{}, None], dtype=object),
    fields=np.zeros(2, dtype=[('a', 'f4')]),
    date64=np.datetime64('2020-01-01'),
    python_generator=random.Random(0),
    device=torch.device('cpu'),
    ellipsis=...,
    layer=torch.nn.ReLU,
)


@pytest.mark.parametrize('protocol', PROTOCOLS)
@pytest.mark.parametrize('key', LEFTOVERS)
def test_inert_leftovers_are_left_out(protocol, key):
    if key == 'slots' and protocol < 2:
        pytest.skip('pickle cannot')
    contents = dict(before=1, leftover=LEFTOVERS[key], inside=[1, LEFTOVERS[key], (2,)], after=2)
    contents = read(pickle.dumps(contents, protocol))
    assert (contents['before'], contents['after']) == (1, 2)
    assert 'leftover' not in contents
    assert contents['inside'] == [1, None, (2,)]


def test_the_classes_of_leftovers_are_not_imported():
    pickled = pickle.dumps(dict(a=1, b=argparse.Namespace(lr=1)), 2)
    pickled = pickled.replace(b'cargparse\nNamespace', b'cno_such_module\nNamespace')
    assert read(pickled) == dict(a=1)


@pytest.mark.parametrize('protocol', PROTOCOLS)
@pytest.mark.parametrize(
    'config',
    [
        ConfigDict(lr=0.1, steps=[1, 2], inner=ConfigDict(a=(1, 2))),
        addict.Dict(lr=0.1, steps=[1, 2], inner=addict.Dict(a=(1, 2))),
        Settings(lr=0.1, steps=[1, 2], inner=Settings(a=(1, 2))),
    ],
)
def test_dict_like_objects_become_dicts(protocol, config):
    contents = read(pickle.dumps(dict(config=config), protocol))
    assert contents == dict(config=dict(lr=0.1, steps=[1, 2], inner=dict(a=(1, 2))))
    assert type(contents['config']) is dict and type(contents['config']['inner']) is dict


PLAIN = [
    None,
    True,
    -(2**70),
    1.5,
    float('inf'),
    complex(1, 2),
    'text with \u1234 and \x00',
    b'\x00\xff',
    bytearray(b'abc'),
    (),
    ((1, (2, 3)), 'a'),
    [1, [2, [3]]],
    {'a': {1: 2}, (1, 'b'): None},
    {1, 'a'},
    frozenset({1, 2}),
    Counter(a=2),
    OrderedDict(b=1, a=2),
]


@pytest.mark.parametrize('protocol', PROTOCOLS)
# Named by type: the order in which a set is printed differs between xdist's workers.
@pytest.mark.parametrize('value', PLAIN, ids=lambda value: type(value).__name__)
def test_plain_values_come_back(protocol, value):
    assert read(pickle.dumps(value, protocol)) == value
    assert read(pickle.dumps([value, value], protocol)) == [value, value]


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_defaultdicts_are_dicts(protocol):
    assert read(pickle.dumps(defaultdict(list, a=[1]), protocol)) == dict(a=[1])


@pytest.mark.parametrize('protocol', PROTOCOLS)
@pytest.mark.parametrize(
    'array',
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array(3, dtype=np.int8),
        np.zeros((0, 4), dtype=np.float32),
        np.array(['a', 'bc']),
        np.array([True, False]),
        np.arange(3, dtype='>f8'),
        np.array([1 + 2j]),
        np.array([b'a']),
    ],
    ids=lambda a: f'{a.dtype}{a.shape}',
)
def test_arrays_and_numbers_of_numpy(protocol, array):
    read_array, number, again = read(pickle.dumps([array, array.dtype.type(), array], protocol))
    np.testing.assert_array_equal(read_array, array)
    assert read_array.dtype == array.dtype and read_array is again
    assert number == array.dtype.type()


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_log_histories_are_mmengines(protocol):
    buffer = HistoryBuffer([1.0, 2.0], [3, 4], max_length=7)
    read_buffer = read(pickle.dumps(dict(a=buffer), protocol))['a']
    assert type(read_buffer) is HistoryBuffer and read_buffer.max_length == 7
    np.testing.assert_array_equal(read_buffer.data, [[1.0, 2.0], [3, 4]])
    assert read_buffer.mean() == pytest.approx((1 + 2) / 7)


def test_shared_parts_stay_shared():
    part = [1]
    first, second = read(pickle.dumps([part, part]))
    assert first is second


# Pickles that would exhaust memory, time or the stack.


def test_deep_nesting():
    for opcodes in (b']' * 5000 + b'a' * 4999, b')' + b'\x85' * 4000, b')' + b'\x85' * 150):
        with pytest.raises(DamagedPickleError, match='nested more than 100 levels deep'):
            read(b'\x80\x02]' + opcodes + b'a.')


@pytest.mark.parametrize(
    'wrap',
    [
        b'\x85',
        # The same behind what changes nothing: BUILD, APPENDS, SETITEMS, ADDITEMS.
        b'\x85NN\x86b',
        b'\x85(e',
        b'\x85(u',
        b'\x85(\x90',
        b'22\x87',
    ],
)
def test_keys_whose_hash_would_end_the_process(wrap):
    with pytest.raises(DamagedPickleError, match='describes far more than it holds'):
        read(b'\x80\x04})' + wrap * 100000 + b'K\x01s.')


def test_large_keys_many_times():
    key = b'(' + b'K\x01' * 50000 + b'tq\x01'
    with pytest.raises(DamagedPickleError, match='describes far more than it holds'):
        read(b'\x80\x02}' + key + b'K\x01s' + b'h\x01K\x01s' * 40000 + b'.')


def test_cycles():
    cycle: list = []
    cycle.append(cycle)
    with pytest.raises(DamagedPickleError, match='nested more than 100 levels deep'):
        read(pickle.dumps(cycle))


@pytest.mark.parametrize('put', [b'r' + struct.pack('<I', 2**31), b'p999999999999\n'])
def test_memo_indices_take_no_memory(put):
    with pytest.raises(DamagedPickleError, match='describes far more than it holds'):
        read(b'\x80\x02N' + put + b'.')


def test_shared_tuples_do_not_multiply():
    pickled = b'\x80\x02]' + b')' + b'22\x87' * 60 + b'a.'  # 3 ** 60 entries
    with pytest.raises(DamagedPickleError, match='describes far more than it holds'):
        read(pickled)


def test_shared_modules_do_not_multiply():
    inner = torch.nn.Linear(2, 2)
    for _ in range(30):
        outer = torch.nn.Module()
        outer.a, outer.b = inner, inner
        inner = outer
    file = io.BytesIO()
    torch.save(inner, file)
    with pytest.raises(DamagedPickleError, match='describes far more than it holds'):
        read_torch_file(file)


@pytest.mark.parametrize(
    ('name', 'argument'),
    [
        (b'_codecs\nencode', b'X' + struct.pack('<I', 2**17) + b'a' * 2**17),
        (b'builtins\nset', b'(' + b'K\x01' * 50000 + b'l'),
        (b'collections\nOrderedDict', b'(' + b'K\x01K\x01\x86' * 50000 + b'l'),
    ],
)
def test_shared_arguments_do_not_multiply(name, argument):
    more = b'X\x06\x00\x00\x00latin1\x86' if b'encode' in name else b'\x85'
    call = b'h\x02h\x01' + more + b'R'
    with pytest.raises(DamagedPickleError, match='describes far more than it holds'):
        read(b'\x80\x02' + argument + b'q\x010c' + name + b'\nq\x020](' + call * 10000 + b'e.')


def test_arrays_do_not_multiply():
    numpy = b'cnumpy.core.numeric\n_frombuffer\n'
    data = b'B' + struct.pack('<I', 2**20) + bytes(2**20) + b'q\x01'
    dtype = b'cnumpy\ndtype\n\x8c\x02u1\x85Rq\x02'
    one = numpy + b'(h\x01h\x02J' + struct.pack('<i', 2**20) + b'\x85\x8c\x01CtRa'
    with pytest.raises(DamagedPickleError, match='describes far more than it holds'):
        read(b'\x80\x04' + data + b'0' + dtype + b'0]' + one * 200 + b'.')


def test_too_many_opcodes(monkeypatch):
    monkeypatch.setattr(plain_pickle, 'MAX_OPCODES', 1000)
    with pytest.raises(DamagedPickleError, match='more than 1000 opcodes'):
        read(b'\x80\x02' + b']0' * 600 + b'N.')


@pytest.mark.parametrize(
    'opcodes',
    [
        b'',
        b'\x80',
        b'\x80\x02',
        b'\x80\x02.',
        b'\x80\x02a.',
        b'\x80\x02h\x05.',
        b'\x80\x02\x95' + struct.pack('<Q', 2**60) + b'N',
        b'\x80\x05\x96' + struct.pack('<Q', 2**60) + b'.',
        b'\x80\x04\x8d' + struct.pack('<Q', 2**60) + b'.',
        b'\x80\x04\x8e' + struct.pack('<Q', 2**60) + b'.',
        b'\x80\x02\x8b' + struct.pack('<i', 2**30) + b'.',
        b'\x80\x02\x82\x01.',  # an extension code
        b'\x80\x05\x97.',  # an out-of-band buffer
        b'Pabc\n.',
        b'\x80\x02K\x01Q.',
        b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.',
        b'\x80\x02ctorch._utils\n_rebuild_parameter\n)\x81.',
        b'\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00punyc\x86R.',
        b'\x80\x02cnumpy.core.multiarray\nscalar\n)R.',
        b'\x80\x02ccollections\nCounter\nK\x01R.',
        b'\xff\xfe',
    ],
)
def test_nonsense(opcodes):
    with pytest.raises(DamagedPickleError):
        read(opcodes)


def test_every_truncation_and_many_flipped_bytes():
    contents = dict(
        a=[1, (2.0, 'x')], b=np.arange(3), c=argparse.Namespace(d=1), e=HistoryBuffer([1], [1])
    )
    generator = random.Random(0)
    for protocol in (0, 2, 4):
        pickled = pickle.dumps(contents, protocol)
        damaged = [pickled[:length] for length in range(len(pickled))]
        for _ in range(1000):
            changed = bytearray(pickled)
            changed[generator.randrange(len(pickled))] = generator.randrange(256)
            damaged.append(bytes(changed))
        for data in damaged:
            try:
                read(data)
            except (DamagedPickleError, UnsafePickleError):
                pass
