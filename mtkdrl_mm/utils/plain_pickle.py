# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Reading pickles without ever importing or calling what they name.

A pickle is a program for a small stack machine. The opcodes are decoded by the standard
library's :mod:`pickletools`, which runs nothing; the machine below understands only data.
It is safe by construction: whatever name a pickle brings, no module is imported, and what
is called is always one of the few functions of this file that stand in for tensors,
arrays and containers.

What else a file may hold falls into two kinds:

- **Objects** (``argparse.Namespace``, paths, dates, configs, whole networks). They become
  an inert :class:`_Object`, and are left out of the result. Of a dict-like object its
  entries are kept, of a pickled network its tensors.
- **Calls of functions** (``os.system``, ``eval``, ``getattr``, ...), and any name of a module
  that reaches out of the process. Nothing would happen here, but such a file was made
  to run code: it is refused with :class:`UnsafePickleError`.
"""

import math
import pickletools
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

# Far above what the largest training checkpoints need, and small enough to end in seconds.
MAX_OPCODES = 5_000_000
MAX_ENTRIES = 1_000_000
MAX_DEPTH = 100
MAX_REPEATED_BYTES = 64 * 2**20

# Names from these modules are refused even where they are only mentioned. ("commands" is what
# pickle's protocol 2 calls subprocess.)
_REFUSED_MODULES = frozenset(
    'os posix nt subprocess sys shutil socket pty ctypes _ctypes importlib runpy pkgutil builtins '
    '__builtin__ __builtins__ pickle _pickle cPickle marshal webbrowser pip multiprocessing '
    'asyncio pdb bdb IPython commands'.split()
)
# What may be mentioned or constructed in spite of its module or its lower-case name.
_INERT_NAMES = frozenset(
    'datetime.datetime datetime.date datetime.time datetime.timedelta datetime.timezone '
    'collections.deque functools.partial torch.device '
    'numpy.random._pickle.__randomstate_ctor numpy.random._pickle.__generator_ctor '
    'numpy.random._pickle.__bit_generator_ctor numpy.ma.core._mareconstruct'.split()
) | frozenset(
    f'{module}.{name}'
    for module in ('builtins', '__builtin__')
    for name in (
        'object type int long float bool str unicode bytes bytearray list dict tuple set '
        'frozenset complex slice range xrange Ellipsis NotImplemented'
    ).split()
)
_RECONSTRUCTORS = ('copyreg._reconstructor', 'copy_reg._reconstructor')
_CONSTRUCTORS = ('copyreg.__newobj__', 'copy_reg.__newobj__')
_GETATTR = ('builtins.getattr', '__builtin__.getattr')
_STORAGE_DTYPES = {
    'DoubleStorage': torch.float64,
    'FloatStorage': torch.float32,
    'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16,
    'LongStorage': torch.int64,
    'IntStorage': torch.int32,
    'ShortStorage': torch.int16,
    'CharStorage': torch.int8,
    'ByteStorage': torch.uint8,
    'BoolStorage': torch.bool,
    'ComplexDoubleStorage': torch.complex128,
    'ComplexFloatStorage': torch.complex64,
    'UntypedStorage': torch.uint8,
}
_NOTHING = object()

PersistentLoad = Callable[[Any], 'Storage']


class UnsafePickleError(Exception):
    """A pickle that would call a function if it were read carelessly."""


class DamagedPickleError(Exception):
    """No pickle, a truncated one, or one that describes nothing sensible."""


class Storage:
    """The bytes of one or more tensors.

    Args:
        data (Tensor): uint8, shape (number of bytes,).
        dtype (torch.dtype): How they were saved.
    """

    def __init__(self, data: Tensor, dtype: torch.dtype) -> None:
        self.data = data
        self.dtype = dtype

    def view(self, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None = None) -> Tensor:
        """Make a tensor of a part of the bytes; they are shared, not copied.

        Args:
            offset (int): First element.
            size (tuple[int, ...]): Shape.
            stride (tuple[int, ...]): Strides in elements.
            dtype (torch.dtype, optional): Defaults to the storage's.

        Raises:
            DamagedPickleError: If the tensor reaches beyond its bytes.
        """
        numbers = (offset, *size, *stride)
        if not all(type(n) is int and 0 <= n < 2**62 for n in numbers) or len(size) != len(stride):
            raise DamagedPickleError(f'a tensor of the shape {size!r} is not possible')
        dtype = dtype or self.dtype
        width = torch.empty(0, dtype=dtype).element_size()
        last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if 0 not in size else 0
        if (last + (0 not in size)) * width > self.data.numel():
            raise DamagedPickleError(
                f'a tensor of the shape {tuple(size)} does not fit in its {self.data.numel()} bytes'
            )
        if 0 in size:
            return torch.empty(size, dtype=dtype)
        if math.prod(size) * width > max(self.data.numel(), MAX_REPEATED_BYTES):
            raise DamagedPickleError(
                f'a tensor of the shape {tuple(size)} repeats its {self.data.numel()} bytes'
            )
        whole = self.data[: self.data.numel() // width * width]
        return torch.as_strided(whole.view(dtype), size, stride, offset)


class _StorageType:
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _Name:
    """A name that a pickle mentions. It is never looked up."""

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def is_class(self) -> bool:
        """Whether it is a class by the convention of PEP 8, or one of the known exceptions."""
        last = self.path.rsplit('.', 1)[-1].lstrip('_')
        return self.path in _INERT_NAMES or last[:1].isupper()


class _Object:
    """Something that is not data: of what class, its entries, and its state."""

    def __init__(self, path: str, args: tuple = ()) -> None:
        self.path = path
        self.args = args
        self.entries: dict[Any, Any] = {}
        self.state: Any = None
        self.value: Any = _NOTHING

    def plain(self, budget: '_Budget | None' = None) -> Any:
        """What of it is data, or ``_NOTHING``."""
        if self.value is _NOTHING:
            if self.path == _ARRAY:
                return _NOTHING  # of Python objects
            if self.entries:
                self.value = self.entries
            elif budget and isinstance(self.state, dict) and '_parameters' in self.state:
                self.value = _tensors_of_module(self.state, budget)
            elif len(self.args) == 1 and type(self.args[0]) is dict:
                self.value = self.args[0]
        return self.value


class _Budget:
    """Counts what is copied, so that shared parts cannot multiply.

    Args:
        size (int): Bytes of the pickle.
    """

    def __init__(self, size: int) -> None:
        self.entries = MAX_ENTRIES
        self.bytes = 16 * size + 2**20

    def spend(self, item: Any) -> None:
        if isinstance(item, (dict, list, tuple, set, frozenset)):
            self.entries -= len(item)
        elif isinstance(item, (str, bytes, bytearray)):
            self.bytes -= len(item)
        if self.entries < 0 or self.bytes < 0:
            raise DamagedPickleError('it describes far more than it holds')


def _tensors_of_module(state: dict[str, Any], budget: _Budget) -> dict[str, Tensor]:
    """The state dict of a pickled ``nn.Module``, from its attributes."""

    def part(name: str) -> dict[str, Any]:
        found = state.get(name)
        return found if isinstance(found, dict) else {}

    hidden = state.get('_non_persistent_buffers_set')
    hidden = hidden if isinstance(hidden, set) else set()
    flat = {k: v for k, v in part('_parameters').items() if isinstance(v, Tensor)}
    flat |= {k: v for k, v in part('_buffers').items() if isinstance(v, Tensor) and k not in hidden}
    for name, module in part('_modules').items():
        if isinstance(module, dict):
            budget.spend(module)
            flat |= {f'{name}.{k}': v for k, v in module.items() if isinstance(v, Tensor)}
    return flat


# Stand-ins for what may be called. Each takes data and returns data.


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise DamagedPickleError('a tensor without a storage')
    return storage.view(offset, size, stride)


def _tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> Tensor:
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise DamagedPickleError('a tensor without a storage')
    return storage.view(offset, size, stride, dtype)


def _subclass(rebuild: Any, kind: Any, args: Any, state: Any) -> Tensor:
    function = _CALLS.get(rebuild.path) if isinstance(rebuild, _Name) else None
    if function not in (_tensor, _tensor_v3, _parameter):
        raise DamagedPickleError('a tensor of an unknown form')
    return function(*args)


def _parameter(data: Any = None, requires_grad: Any = True, *rest: Any) -> nn.Parameter:
    if not isinstance(data, Tensor):
        raise DamagedPickleError('a parameter without a tensor')
    floats = data.is_floating_point() or data.is_complex()
    return nn.Parameter(data, requires_grad=bool(requires_grad) and floats)


def _layout(name: Any) -> str:
    return str(name)


def _dtype(name: Any, *rest: Any) -> Any:
    if isinstance(name, str) and re.fullmatch(r'[<>=|]?[biufcSU?]\d{0,4}', name):
        return np.dtype(name)
    return _Object('numpy.dtype')  # of Python objects, or of several fields


def _raw(data: Any) -> bytes:
    """The bytes of an array; pickles of Python 2 hold them as text."""
    if isinstance(data, str):
        return data.encode('latin1')
    if not isinstance(data, (bytes, bytearray)):
        raise DamagedPickleError('an array without bytes')
    return bytes(data)


def _scalar(dtype: Any, data: Any = b'') -> Any:
    if not isinstance(dtype, np.dtype):
        return _Object('numpy.scalar')
    return np.ndarray((1,), dtype, _raw(data))[0]


_ARRAY = 'numpy.ndarray'


def _empty_array(*args: Any) -> '_Object':
    return _Object(_ARRAY)


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    if not isinstance(dtype, np.dtype) or isinstance(data, list):
        return _NOTHING
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return np.ndarray(shape, dtype, _raw(data), order='F' if order == 'F' else 'C').copy()


def _array_from_buffer(*args: Any) -> '_Object':
    made = _Object(_ARRAY)
    made.value = _array(*args)
    return made


def _array_from_state(state: Any) -> Any:
    _, shape, dtype, fortran, data = state
    return _array(data, dtype, shape, 'F' if fortran else 'C')


def _history_from_state(state: Any) -> Any:
    """A log history: of mmengine's own class, from its two arrays."""
    values, counts = (
        value.plain() if isinstance(value, _Object) else value
        for value in (state['_log_history'], state['_count_history'])
    )
    length = state.get('max_length')
    is_length = type(length) is int and length >= len(values)
    return HistoryBuffer(values, counts, length if is_length else 1000000)


def _encode(text: Any, encoding: Any = 'utf-8') -> bytes:
    if not isinstance(text, str) or encoding not in ('latin1', 'utf-8', 'ascii'):
        raise DamagedPickleError('bytes in an unknown encoding')
    return text.encode(encoding)


def _ordered(pairs: Any = ()) -> OrderedDict:
    made: OrderedDict = OrderedDict()
    for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
        if _is_key(key):
            made[key] = value
    return made


def _counter(counts: Any = None) -> Counter:
    return Counter(counts if isinstance(counts, dict) else {})


def _set(items: Any = ()) -> set:
    return {item for item in items if _is_key(item)}


def _make_frozenset(items: Any = ()) -> frozenset:
    return frozenset(_set(items))


def _complex(real: Any = 0, imaginary: Any = 0) -> complex:
    return complex(float(real), float(imaginary))


def _bytes(data: Any = b'', *rest: Any) -> bytes:
    return _raw(data)


def _bytearray(data: Any = b'', *rest: Any) -> bytearray:
    return bytearray(_raw(data))


def _size(numbers: Any = ()) -> torch.Size:
    return torch.Size([n for n in numbers if type(n) is int])


def _plain_dict(*args: Any) -> dict:
    return {}


_CALLS: dict[str, Callable[..., Any]] = {
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _tensor_v3,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch._tensor._rebuild_from_type_v2': _subclass,
    'torch.nn.parameter.Parameter': _parameter,
    'torch.serialization._get_layout': _layout,
    'torch.Size': _size,
    'numpy.core.multiarray._reconstruct': _empty_array,
    'numpy._core.multiarray._reconstruct': _empty_array,
    'numpy.core.multiarray.scalar': _scalar,
    'numpy._core.multiarray.scalar': _scalar,
    'numpy.core.numeric._frombuffer': _array_from_buffer,
    'numpy._core.numeric._frombuffer': _array_from_buffer,
    'numpy.dtype': _dtype,
    '_codecs.encode': _encode,
    'collections.Counter': _counter,
    'collections.OrderedDict': _ordered,
    'collections.defaultdict': _plain_dict,
    'builtins.set': _set,
    '__builtin__.set': _set,
    'builtins.frozenset': _make_frozenset,
    '__builtin__.frozenset': _make_frozenset,
    'builtins.complex': _complex,
    '__builtin__.complex': _complex,
    'builtins.bytes': _bytes,
    '__builtin__.bytes': _bytes,
    'builtins.bytearray': _bytearray,
    '__builtin__.bytearray': _bytearray,
}
_HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'


def _is_key(key: Any, depth: int = 3) -> bool:
    """Whether something may be a key; hashing deeply nested tuples would end the process."""
    if isinstance(key, tuple):
        return depth > 0 and all(_is_key(item, depth - 1) for item in key)
    kinds = (str, bytes, int, float, complex, bool, type(None), np.generic, torch.dtype)
    return isinstance(key, kinds) and isinstance(key, Hashable)


def load_plain(file: BinaryIO, size: int, persistent_load: PersistentLoad | None = None) -> Any:
    """Read one pickle as data.

    Args:
        file (BinaryIO): At the pickle's first byte; left behind its last.
        size (int): Bytes that the pickle has at most.
        persistent_load (Callable, optional): From torch's description of a
            storage, ``('storage', type, key, location, number of elements)``,
            to the storage. Defaults to None: the pickle may have none.

    Returns:
        Any: Numbers, text, tensors, arrays, and containers of them.

    Raises:
        UnsafePickleError: If reading it with :mod:`pickle` would call a
            function.
        DamagedPickleError: If it is truncated or nonsense, or too large or too
            deeply nested to be a checkpoint.
    """
    machine = _Machine(size, persistent_load)
    try:
        contents = machine.run(_opcodes(file))
    except (UnsafePickleError, DamagedPickleError):
        raise
    except Exception as error:
        # Every other error comes of opcodes or arguments that make no sense.
        raise DamagedPickleError(str(error) or type(error).__name__) from error
    _check_nesting(contents)
    return contents


def _opcodes(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count >= MAX_OPCODES:
            raise DamagedPickleError(f'it has more than {MAX_OPCODES} opcodes')
        yield opcode.name, argument


class _Machine:
    """The stack machine of pickles, for data alone."""

    def __init__(self, size: int, persistent_load: PersistentLoad | None) -> None:
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.budget = _Budget(size)

    def run(self, opcodes: Iterator[tuple[str, Any]]) -> Any:
        """Run a pickle; return what it describes."""
        for name, argument in opcodes:
            if name == 'STOP':
                return self._plain_item(self.stack.pop())
            if name in _CONSTANTS:
                self.stack.append(argument)
            elif name in _FIXED:
                self.stack.append(_FIXED[name]())
            else:
                handler = getattr(self, f'_{name.lower()}', None)
                if handler is None:
                    raise DamagedPickleError(f'the opcode {name} is not used in checkpoints')
                handler(argument)
        raise DamagedPickleError('it ends too early')

    def _value(self, item: Any) -> Any:
        """What is left of an item where it is put into a container."""
        if isinstance(item, _Object):
            return item.plain(self.budget)
        if isinstance(item, (_Name, _StorageType)):
            return _NOTHING
        return item.data if isinstance(item, Storage) else item

    def _entry(self, item: Any) -> Any:
        value = self._value(item)
        return None if value is _NOTHING else value

    def _pop_to_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    # The stack and the memo.

    def _proto(self, argument: Any) -> None:
        pass

    _frame = _proto

    def _mark(self, argument: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _pop(self, argument: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._pop_to_mark()

    def _pop_mark(self, argument: Any) -> None:
        self._pop_to_mark()

    def _dup(self, argument: Any) -> None:
        self.stack.append(self.stack[-1])

    def _get(self, argument: Any) -> None:
        self.stack.append(self.memo[int(argument)])

    _binget = _long_binget = _get

    def _put(self, argument: Any) -> None:
        self.memo[int(argument)] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, argument: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    # Containers.

    def _make_tuple(self, items: list[Any]) -> None:
        # Arguments of stand-ins travel as tuples too, so names and storages stay what they are.
        self.stack.append(tuple(items))

    def _tuple(self, argument: Any) -> None:
        self._make_tuple(self._pop_to_mark())

    def _tuple1(self, argument: Any) -> None:
        self._make_tuple([self.stack.pop()])

    def _tuple2(self, argument: Any) -> None:
        last = self.stack.pop()
        self._make_tuple([self.stack.pop(), last])

    def _tuple3(self, argument: Any) -> None:
        third, second = self.stack.pop(), self.stack.pop()
        self._make_tuple([self.stack.pop(), second, third])

    def _list(self, argument: Any) -> None:
        items = self._pop_to_mark()
        self.stack.append([self._plain_item(item) for item in items])

    def _dict(self, argument: Any) -> None:
        items = self._pop_to_mark()
        self.stack.append({})
        self._set_items(items)

    def _frozenset(self, argument: Any) -> None:
        items = self._pop_to_mark()
        self.stack.append(_make_frozenset(items))

    def _append(self, argument: Any) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, argument: Any) -> None:
        self._extend(self._pop_to_mark())

    def _setitem(self, argument: Any) -> None:
        value = self.stack.pop()
        self._set_items([self.stack.pop(), value])

    def _setitems(self, argument: Any) -> None:
        self._set_items(self._pop_to_mark())

    def _additems(self, argument: Any) -> None:
        items = self._pop_to_mark()
        target = self.stack[-1]
        if type(target) is set:
            target.update(item for item in items if _is_key(item))
        elif not isinstance(target, _Object):
            raise DamagedPickleError('items for something that is no set')

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(self._plain_item(item) for item in items)
        elif not isinstance(target, _Object):
            raise DamagedPickleError('items for something that is no list')

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, _Object):
            target = target.entries
        elif not isinstance(target, dict):
            raise DamagedPickleError('entries for something that is no dict')
        for key, item in zip(items[::2], items[1::2]):
            value = self._plain_item(item, _NOTHING)
            if _is_key(key) and value is not _NOTHING:
                target[key] = value

    def _plain_item(self, item: Any, otherwise: Any = None) -> Any:
        """An item without what is no data; ``otherwise`` where nothing is left."""
        if type(item) is tuple:
            return self._plain_tuple(item)
        value = self._value(item)
        return otherwise if value is _NOTHING else value

    def _plain_tuple(self, items: tuple, depth: int = 0) -> tuple:
        if depth > MAX_DEPTH:
            raise DamagedPickleError(f'it is nested more than {MAX_DEPTH} levels deep')
        self.budget.spend(items)
        return tuple(
            self._plain_tuple(item, depth + 1) if type(item) is tuple else self._entry(item)
            for item in items
        )

    # Names, calls and objects.

    def _global(self, argument: Any) -> None:
        module, _, name = argument.partition(' ')
        self.stack.append(_name(module, name))

    def _stack_global(self, argument: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_name(str(module), str(name)))

    def _reduce(self, argument: Any) -> None:
        args = self.stack.pop()
        self._call(self.stack.pop(), args)

    def _newobj(self, argument: Any) -> None:
        args = self.stack.pop()
        self._construct(self.stack.pop(), args)

    def _newobj_ex(self, argument: Any) -> None:
        self.stack.pop()
        self._newobj(argument)

    def _obj(self, argument: Any) -> None:
        # Of Python 2's classes: this calls whatever it is given.
        target, *args = self._pop_to_mark()
        self._call(target, tuple(args))

    def _inst(self, argument: Any) -> None:
        args = self._pop_to_mark()
        module, _, name = argument.partition(' ')
        self._call(_name(module, name), tuple(args))

    def _call(self, target: Any, args: Any) -> None:
        if type(args) is not tuple:
            raise DamagedPickleError('arguments that are no tuple')
        if not isinstance(target, _Name):
            raise UnsafePickleError('the call of an object is not plain data')
        for arg in args:
            self.budget.spend(arg)
        path = target.path
        if path in _CALLS:
            self.stack.append(_CALLS[path](*args))
        elif path in (_HISTORY, _ARRAY):
            self.stack.append(_Object(path))
        elif path in _RECONSTRUCTORS:
            self._construct(args[0], ())
            if isinstance(args[-1], dict) and isinstance(self.stack[-1], _Object):
                self.stack[-1].entries.update(args[-1])
        elif path in _CONSTRUCTORS:
            self._construct(args[0], args[1:])
        elif path in _GETATTR:
            self._attribute(*args)
        elif target.is_class or path.startswith('torch._utils._rebuild_'):
            self.stack.append(_Object(path, tuple(self._entry(arg) for arg in args)))
        else:
            raise UnsafePickleError(f'{path} is not plain data')

    def _attribute(self, owner: Any = None, name: Any = None, *default: Any) -> None:
        """``getattr``, with which protocol 2 names inner classes and methods."""
        if isinstance(owner, _Name) and isinstance(name, str):
            # Log histories keep a table of their methods: min, max, current and mean.
            is_statistic = owner.path == _HISTORY and name in ('min', 'max', 'current', 'mean')
            if is_statistic or name[:1].isupper():
                return self.stack.append(_name(owner.path, name))
        shown = owner.path if isinstance(owner, (_Name, _Object)) else type(owner).__name__
        raise UnsafePickleError(f'getattr({shown}, {name!r}) is not plain data')

    def _construct(self, target: Any, args: Any) -> None:
        """A new object of a class, without its ``__init__``."""
        if not isinstance(target, _Name) or type(args) is not tuple:
            raise DamagedPickleError('an object without a class')
        if target.path in _CALLS:
            return self._call(target, args)
        self.stack.append(_Object(target.path))

    def _build(self, argument: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Object):
            if target.path == _ARRAY:
                target.value = _array_from_state(state)
            elif target.path == _HISTORY:
                target.value = _history_from_state(state)
            elif type(state) is tuple and state and isinstance(state[0], Storage):
                target.value = state[0].view(*state[1:4])  # a tensor of torch 0.1
            else:
                # Objects with __slots__ have a pair: attributes, slots.
                target.state = state[0] if type(state) is tuple and state else state
        elif isinstance(target, OrderedDict):
            # Where state dicts keep the versions of their modules.
            metadata = state.get('_metadata') if isinstance(state, dict) else None
            if isinstance(metadata, dict):
                target._metadata = metadata  # type: ignore[attr-defined]
        elif isinstance(target, np.dtype):
            self._set_byte_order(target, state)
        elif not isinstance(target, (nn.Parameter, dict)):
            raise DamagedPickleError(f'a state for a {type(target).__name__}')

    def _set_byte_order(self, dtype: np.dtype, state: Any) -> None:
        order: Any = state[1] if type(state) is tuple and len(state) > 1 else '|'
        if order not in ('<', '>') or dtype.newbyteorder(order) == dtype:
            return
        self.stack[-1] = dtype.newbyteorder(order)
        self.budget.spend(self.memo)
        for key, value in self.memo.items():
            if value is dtype:
                self.memo[key] = self.stack[-1]

    def _binpersid(self, argument: Any) -> None:
        description = self.stack.pop()
        if type(description) is not tuple or self.persistent_load is None or len(description) < 2:
            raise DamagedPickleError('a reference to something outside of the file')
        if description[0] == 'module':  # old files keep the source of a network's class
            self.stack.append(description[1])
        else:
            self.stack.append(self.persistent_load(description))


def _name(module: str, name: str) -> Any:
    """What a pickle's name stands for: a stand-in, a dtype, a kind of storage, or itself."""
    path = f'{module}.{name}'
    if path in _CALLS or path in _INERT_NAMES or path in _GETATTR:
        return _Name(path)
    # Since protocol 4 a name may walk through modules: "torch", "os.system".
    if {module.split('.')[0], *name.split('.')[:-1]} & _REFUSED_MODULES:
        raise UnsafePickleError(f'{path} is not plain data')
    if module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype):
        return getattr(torch, name)
    if module.split('.')[0] == 'torch' and name in _STORAGE_DTYPES:
        return _StorageType(_STORAGE_DTYPES[name])
    return _Name(path)


def dtype_of(storage_type: Any) -> torch.dtype:
    """The dtype of a storage, from the type that a pickle names.

    Raises:
        DamagedPickleError: If it is no type of storage.
    """
    if not isinstance(storage_type, _StorageType):
        raise DamagedPickleError('a storage of an unknown type')
    return storage_type.dtype


_FIXED: dict[str, Callable[[], Any]] = {
    'NONE': lambda: None,
    'NEWTRUE': lambda: True,
    'NEWFALSE': lambda: False,
    'EMPTY_LIST': list,
    'EMPTY_DICT': dict,
    'EMPTY_SET': set,
    'EMPTY_TUPLE': tuple,
}
_CONSTANTS = frozenset(
    'INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING '
    'UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 '
    'BYTEARRAY8'.split()
)


def _check_nesting(contents: Any) -> None:
    """Refuse what would exhaust the stack of everyone who walks through it."""
    depths: dict[int, int] = {}
    pending: list[tuple[Any, bool]] = [(contents, False)]
    while pending:
        item, is_done = pending.pop()
        if not isinstance(item, (dict, list, tuple, set, frozenset)):
            continue
        children = list(item.values()) if isinstance(item, dict) else list(item)
        if is_done:
            depth = 1 + max((depths.get(id(child), 0) for child in children), default=0)
            if depth > MAX_DEPTH:
                raise DamagedPickleError(f'it is nested more than {MAX_DEPTH} levels deep')
            depths[id(item)] = depth
        elif id(item) not in depths:
            depths[id(item)] = -1
            pending.append((item, True))
            pending += [(child, False) for child in children]
        elif depths[id(item)] < 0:
            raise DamagedPickleError('it contains itself')
