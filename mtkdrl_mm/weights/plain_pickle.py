# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Reading of pickles as plain data, without importing or calling what they name.

A pickle is a program that calls functions by name. Here ``find_class`` imports nothing: for every
name it returns a class of :class:`_Record`, and no other class, nor anything else that can be
called, ever reaches the unpickler's stack. So what the opcodes call (REDUCE, NEWOBJ, NEWOBJ_EX, OBJ
and INST a class, BUILD ``__setstate__``, APPENDS ``extend``, SETITEMS ``__setitem__``) are methods
of records, or of built-in lists, dicts, sets and bytearrays. Records only keep what they are given;
the few that stand for functions build other records, or refuse. BUILD cannot set attributes where
there is a ``__setstate__``, as here in classes and objects alike. The EXT opcodes, which could
fetch objects that other libraries registered, are refused beforehand.

In a second step, the functions in ``_NAMES`` make tensors, arrays and containers of the records.
Other objects (``argparse.Namespace``, paths, dates) are left out; of dict-like objects the entries
are kept, and of pickled networks the tensors. Calls of other functions, and any mention of modules
that reach out of the process, raise :class:`UnsafePickleError`.
"""

import builtins
import io
import math
import pickle
import pickletools
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

# Far above what the largest training checkpoints need, and small enough to end in seconds.
MAX_OPCODES = 5_000_000
MAX_DEPTH = 100
MAX_REPEATED_BYTES = 64 * 2**20
# Names from these modules are refused even where they are only mentioned. ("commands" is what
# pickle's protocol 2 calls subprocess.)
_REFUSED_MODULES = frozenset(
    'os posix nt subprocess sys shutil socket pty ctypes _ctypes importlib runpy pkgutil builtins '
    '__builtin__ __builtins__ pickle _pickle cPickle marshal webbrowser pip multiprocessing '
    'asyncio pdb bdb IPython commands'.split()
)
_TOO_MUCH = 'it describes far more than it holds'
_NOTHING = object()


class UnsafePickleError(Exception):
    """Raised for a pickle that would call a function in a plain unpickler."""


class DamagedPickleError(Exception):
    """Raised for a file that is no pickle, or a truncated or invalid one."""


class _Record:
    """An object that a pickle constructs: its arguments, entries and state."""

    __slots__ = ('args', 'entries', 'state')
    args: tuple
    entries: dict[Any, Any]
    state: Any
    constant: Any = _NOTHING  # the data that the class itself stands for

    def __new__(cls, /, *args: Any, **kwargs: Any) -> '_Record':
        self = object.__new__(cls)
        self.args, self.entries, self.state = args, {}, None
        return self

    def __call__(self, *args: Any) -> None:
        raise UnsafePickleError('the call of an object is not plain data')

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def extend(self, items: Any) -> None:
        """Leave out the items of list-like objects."""

    append = extend

    def value(self, read: '_Reader') -> Any:
        """Return what of it is data, or ``_NOTHING``."""
        if self.entries:
            return read(self.entries)
        if type(self.state) is dict and '_parameters' in self.state:
            return _tensors_of_module(self.state, read)
        if len(self.args) == 1 and type(self.args[0]) is dict:
            return read(self.args[0])
        return _NOTHING


class Recording(pickle.Unpickler):
    """Unpickler that records constructions instead of executing them.

    Invalid pickles raise errors of various types, as in :mod:`pickle`.

    Args:
        file (BinaryIO): File at the first byte of the pickle; its position is
            then behind the last one.

    Attributes:
        dtypes (dict[str, torch.dtype]): Data types of the storages, by key.

    Raises:
        UnsafePickleError: If a plain unpickler would call a function.
        DamagedPickleError: If it would exhaust the memory or the stack.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.dtypes: dict[str, torch.dtype] = {}
        start = file.tell()
        _scan(file)
        self._size = file.tell() - start
        file.seek(start)
        super().__init__(io.BytesIO(file.read(self._size)), encoding='latin1')
        self._root = self.load()

    def find_class(self, module: str, name: str) -> Any:
        """Return the record class for a name, without importing it."""
        path = f'{_ALIASES.get(module, module)}.{name}'
        if path in _NAMES:
            return _NAMES[path]

        def refuse(*args: Any) -> None:
            raise UnsafePickleError(f'{path} is not plain data')

        # Since protocol 4 a name may walk through modules: "torch", "os.system".
        if {module.split('.')[0], *name.split('.')[:-1]} & _REFUSED_MODULES:
            refuse()
        is_class = name.rsplit('.', 1)[-1].lstrip('_')[:1].isupper()  # PEP 8
        is_tensor = path.startswith('torch._utils._rebuild_')  # sparse, quantised, ...
        return _Record if is_class or is_tensor else _function(refuse)

    def persistent_load(self, description: Any) -> Any:
        """Record torch's reference to a storage: type, key, location, number of elements."""
        if description[0] == 'module':  # old files keep the source of a network's class
            return description[1]
        _, kind, key, _, count, *view = description
        if not hasattr(kind, 'dtype') or type(key) is not str or type(count) is not int:
            raise DamagedPickleError('a storage of an unknown type')
        if view not in ([], [None]):
            raise DamagedPickleError('it has views of storages, which torch wrote before 0.4')
        self.dtypes[key] = kind.dtype
        return _storage(key, kind.dtype, count)

    def contents(self, storages: dict[str, Tensor]) -> Any:
        """Convert the records to numbers, strings, tensors, arrays, and containers of them.

        Args:
            storages (dict[str, Tensor]): Bytes of the storages by key, uint8
                tensors of shape (number of bytes,).

        Returns:
            Any: The data.

        Raises:
            DamagedPickleError: If it is nested too deeply, or the data, with
                repetitions, is far larger than the pickle.
        """
        value = _Reader(2**20 + 4 * self._size, storages)(self._root)
        return None if value is _NOTHING else value


def _scan(file: BinaryIO) -> None:
    """Scan a pickle's opcodes for what would exhaust the unpickler, without running them.

    These are large memo indices, since the memo is an array, and nested tuples as keys: their hash
    takes a stack as deep as they are nested, and the time of all that they repeat. ``stack`` holds,
    for each object on the unpickler's stack, how many items a hash of it visits: 0 for marks, more
    than 1 for tuples and frozensets, 1 for all others.
    """
    stack: list[int] = []
    memo: dict[int, int] = {}
    work = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        name, before = opcode.name, opcode.stack_before
        if name.startswith('EXT') or name.endswith('BUFFER'):
            raise DamagedPickleError(f'the opcode {name} is not used in checkpoints')
        if count >= MAX_OPCODES:
            raise DamagedPickleError(f'it has more than {MAX_OPCODES} opcodes')
        if name == 'MEMOIZE' or name.endswith('PUT'):
            index = len(memo) if argument is None else int(argument)
            memo[index] = stack[-1]
            work += max(index - count, 0)
        elif name.endswith('GET'):
            stack.append(memo.get(int(argument or 0), 1))  # the unpickler reports missing ones
        else:
            total = last = 0
            fixed = len(before)
            if pickletools.markobject in before:
                fixed = before.index(pickletools.markobject)
                while last := stack.pop():
                    total += last
            for _ in range(fixed):
                total += (last := stack.pop())
            work += 20 if name == 'EMPTY_SET' else total  # an empty set takes 216 bytes
            is_tuple = name.startswith(('TUPLE', 'FROZENSET'))
            # Opcodes that change an object leave it on the stack. That includes BUILD without a
            # state and APPENDS without items, which accept tuples.
            number = 1 + total if is_tuple else last or int(name != 'MARK')
            stack += [number] * len(opcode.stack_after)
        if work > 2 * MAX_OPCODES:
            raise DamagedPickleError(_TOO_MUCH)


class _Reader:
    """Converts records to plain data.

    Args:
        budget (int): Largest number of items of the data, with repetitions.
        storages (dict[str, Tensor]): Bytes of the storages by key.
    """

    def __init__(self, budget: int, storages: dict[str, Tensor]) -> None:
        self.budget = budget
        self.storages = storages
        self.depth = 0
        self.made: dict[int, tuple[Any, int]] = {}

    def __call__(self, item: Any) -> Any:
        """Return the data of an item, or ``_NOTHING``; one object for repeated items."""
        if id(item) not in self.made:
            before, self.depth = self.budget, self.depth + 1
            if self.depth > MAX_DEPTH:
                raise DamagedPickleError(f'it is nested more than {MAX_DEPTH} levels deep')
            value = self._value(item)
            self.made[id(item)] = value, 1 + before - self.budget
            self.budget, self.depth = before, self.depth - 1
        value, cost = self.made[id(item)]
        self.budget -= cost
        if self.budget < 0:
            raise DamagedPickleError(_TOO_MUCH)
        return value

    def _value(self, item: Any) -> Any:
        if isinstance(item, _Record):
            return item.value(self)
        if isinstance(item, dict):
            pairs = [(self(key), self(value)) for key, value in item.items()]
            return {k: v for k, v in pairs if _is_key(k) and v is not _NOTHING}
        if isinstance(item, (set, frozenset)):
            return type(item)(filter(_is_key, map(self, item)))
        if isinstance(item, (list, tuple)):
            parts = map(self, item)
            return type(item)(None if part is _NOTHING else part for part in parts)
        if isinstance(item, (str, bytes, bytearray)):
            self.budget -= len(item) // 8
        return getattr(item, 'constant', _NOTHING) if isinstance(item, type) else item


def _is_key(key: Any) -> bool:
    return isinstance(key, Hashable) and key is not _NOTHING


def _tensors_of_module(state: dict[str, Any], read: _Reader) -> dict[str, Tensor]:
    """The state dict of a pickled ``nn.Module``, from its attributes."""
    parameters, buffers, modules, hidden = (
        read(state.get(key)) or {}
        for key in ('_parameters', '_buffers', '_modules', '_non_persistent_buffers_set')
    )
    found = parameters | {key: buffer for key, buffer in buffers.items() if key not in hidden}
    for name, module in modules.items():
        if isinstance(module, dict):
            found |= {f'{name}.{key}': value for key, value in module.items()}
    return {key: value for key, value in found.items() if isinstance(value, Tensor)}


# What stands for the names: classes of records, each with the function that makes its value.


def _recorded(value: Callable[[Any, _Reader], Any], **attributes: Any) -> type[_Record]:
    return type('_recorded', (_Record,), dict(__slots__=(), value=value, **attributes))


def _function(function: Callable[..., Any]) -> type[_Record]:
    """Make a class whose calls are, at once, those of a function from records to records."""
    return type('_function', (_Record,), dict(__slots__=(), __new__=lambda cls, *a: function(*a)))


def _call(function: Callable[..., Any]) -> type[_Record]:
    """Make a class of records whose value is that of a function, from data to data."""

    def value(self: _Record, read: _Reader) -> Any:
        made = function(*[read(arg) for arg in self.args])
        if self.entries:
            made.update(read(self.entries))
        if type(made) is OrderedDict and type(self.state) is dict and '_metadata' in self.state:
            made._metadata = read(self.state['_metadata'])  # type: ignore[attr-defined]
        return made

    return _recorded(value)


@_recorded
def _storage(self: _Record, read: _Reader) -> Tensor:
    key, dtype, count = self.args
    data = read.storages[key]
    if not 0 <= count * dtype.itemsize <= data.numel():
        raise DamagedPickleError(f'its storage "{key}" is shorter than described')
    return data[: count * dtype.itemsize].view(dtype)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """A part of a storage, whose memory it shares. Offset and strides count elements."""
    if len(rest) > 2 and isinstance(rest[2], torch.dtype):  # _rebuild_tensor_v3
        data = storage.view(torch.uint8)
        storage = data[: len(data) // rest[2].itemsize * rest[2].itemsize].view(rest[2])
    shape = f'a tensor of the shape {tuple(size)}'
    numbers = (offset, *size, *stride)
    if not all(type(n) is int and 0 <= n < 2**62 for n in numbers) or len(size) != len(stride):
        raise DamagedPickleError(f'{shape} is not possible')
    if 0 in size:
        return torch.empty(size, dtype=storage.dtype)
    if offset + sum((n - 1) * step for n, step in zip(size, stride)) >= storage.numel():
        raise DamagedPickleError(f'{shape} does not fit in its {storage.nbytes} bytes')
    if math.prod(size) * storage.itemsize > max(storage.nbytes, MAX_REPEATED_BYTES):
        raise DamagedPickleError(f'{shape} repeats its {storage.nbytes} bytes')
    return torch.as_strided(storage, size, stride, offset)


def _parameter(data: Tensor, requires_grad: Any = True, *rest: Any) -> nn.Parameter:
    floats = data.is_floating_point() or data.is_complex()
    return nn.Parameter(data, requires_grad=bool(requires_grad) and floats)


@_recorded
def _dtype(self: _Record, read: _Reader) -> Any:
    """A dtype of numpy, whose byte order is in its state."""
    name = self.args[0]
    if not isinstance(name, str) or not re.fullmatch(r'[<>=|]?[biufcSU?]\d{0,4}', name):
        return _NOTHING  # of Python objects, or of several fields
    is_swapped = type(self.state) is tuple and self.state[1] == '>'
    return np.dtype(name).newbyteorder('>') if is_swapped else np.dtype(name)


def _bytes(data: Any = b'', *rest: Any) -> bytes:
    # Pickles of Python 2 hold the bytes of arrays as text.
    return data.encode('latin1') if isinstance(data, str) else bytes(memoryview(data))


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    if not isinstance(dtype, np.dtype) or not dtype.itemsize or isinstance(data, list):
        return _NOTHING
    return np.ndarray(shape, dtype, _bytes(data), order='F' if order == 'F' else 'C').copy()


@_recorded
def _array_with_state(self: _Record, read: _Reader) -> Any:
    _, shape, dtype, is_fortran, data = read(self.state)
    return _array(data, dtype, shape, 'F' if is_fortran else 'C')


def _scalar(dtype: Any, data: Any = b'') -> Any:
    return np.ndarray((1,), dtype, _bytes(data))[0] if isinstance(dtype, np.dtype) else _NOTHING


@_recorded
def _history(self: _Record, read: _Reader) -> HistoryBuffer:
    values, counts = read(self.state['_log_history']), read(self.state['_count_history'])
    length = self.state.get('max_length')
    is_length = type(length) is int and length >= len(values)
    return HistoryBuffer(values, counts, length if is_length else 1000000)


def _ordered(pairs: Any = ()) -> OrderedDict:
    pairs = pairs.items() if isinstance(pairs, dict) else pairs
    return OrderedDict((key, value) for key, value in pairs if _is_key(key))


def _set(items: Any = ()) -> set:
    return set(filter(_is_key, items))


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding != 'latin1':  # Python imports a module for every other
        raise DamagedPickleError('bytes in an unknown encoding')
    return text.encode('latin1')


def _getattr(owner: Any = None, name: Any = '', *default: Any) -> Any:
    """``getattr``, with which protocol 2 names inner classes and methods."""
    # Log histories keep a table of their methods.
    is_statistic = owner is _history and name in ('min', 'max', 'current', 'mean')
    if not is_statistic and not (isinstance(owner, type) and name[:1].isupper()):
        raise UnsafePickleError(f'getattr(..., {name!r}) is not plain data')
    return _Record


_ALIASES = {
    '__builtin__': 'builtins',
    'copy_reg': 'copyreg',
    'numpy._core.multiarray': 'numpy.core.multiarray',
    'numpy._core.numeric': 'numpy.core.numeric',
    'torch.cuda': 'torch',
    'torch.storage': 'torch',
}
_INERT = (
    'datetime.datetime datetime.date datetime.time datetime.timedelta datetime.timezone '
    'collections.deque functools.partial torch.device numpy.ndarray '
    'numpy.random._pickle.__randomstate_ctor numpy.random._pickle.__generator_ctor '
    'numpy.random._pickle.__bit_generator_ctor numpy.ma.core._mareconstruct '
    'numpy.random.bit_generator.__pyx_unpickle_SeedSequence '
    'builtins.long builtins.unicode builtins.xrange builtins.Ellipsis builtins.NotImplemented'
)
_STORAGES = (
    'Double:float64 Float:float32 Half:float16 BFloat16:bfloat16 Long:int64 Int:int32 Short:int16 '
    'Char:int8 Byte:uint8 Bool:bool ComplexDouble:complex128 ComplexFloat:complex64 Untyped:uint8'
)
_NAMES: dict[str, type[_Record]] = {
    **{f'builtins.{k}': _Record for k, v in vars(builtins).items() if isinstance(v, type)},
    **dict.fromkeys(_INERT.split(), _Record),
    'torch._utils._rebuild_tensor': _call(_tensor),
    'torch._utils._rebuild_tensor_v2': _call(_tensor),
    'torch._utils._rebuild_tensor_v3': _call(_tensor),
    'torch._utils._rebuild_parameter': _call(_parameter),
    'torch._utils._rebuild_parameter_with_state': _call(_parameter),
    'torch._tensor._rebuild_from_type_v2': _function(lambda make, kind, args, state: make(*args)),
    'torch.serialization._get_layout': _call(lambda name: name),
    'torch.Size': _call(torch.Size),
    'numpy.core.multiarray._reconstruct': _array_with_state,
    'numpy.core.multiarray.scalar': _call(_scalar),
    'numpy.core.numeric._frombuffer': _call(_array),
    'numpy.dtype': _dtype,
    'mmengine.logging.history_buffer.HistoryBuffer': _history,
    'collections.Counter': _call(Counter),
    'collections.OrderedDict': _call(_ordered),
    'collections.defaultdict': _call(lambda *args: {}),
    'builtins.set': _call(_set),
    'builtins.frozenset': _call(lambda items=(): frozenset(_set(items))),
    'builtins.complex': _call(complex),
    'builtins.bytes': _call(_bytes),
    'builtins.bytearray': _call(lambda *args: bytearray(_bytes(*args))),
    'builtins.getattr': _function(_getattr),
    'copyreg._reconstructor': _function(lambda kind, base, state: kind(state)),
    'copyreg.__newobj__': _function(lambda kind, *args: kind(*args)),
    '_codecs.encode': _call(_encode),
}
for _name, _data in vars(torch).items():
    if isinstance(_data, torch.dtype):
        _NAMES[f'torch.{_name}'] = _recorded(_Record.value, constant=_data)
for _name, _data in (pair.split(':') for pair in _STORAGES.split()):
    _NAMES[f'torch.{_name}Storage'] = _recorded(_Record.value, dtype=vars(torch)[_data])
