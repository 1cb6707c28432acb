# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""All stored tensors of a sample in one row of bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtkdrl_mm.utils.errors import InputError

from .manifest import TensorSpec

# Offsets that every dtype, and torch's views of another dtype, accept.
_ALIGNMENT = 8


@dataclass(frozen=True)
class PackedTensor:
    """Position of one tensor in a packed row.

    Attributes:
        teacher (str): Name of the teacher.
        spec (TensorSpec): Name, shape and data type.
        offset (int): Position of its first byte.
    """

    teacher: str
    spec: TensorSpec
    offset: int


class PackedLayout:
    """Positions of all teachers' tensors in one row of bytes.

    A data worker returns one array per sample, which is stacked, pinned and
    copied to the device as one tensor, whatever the number of teachers.

    Args:
        tensors (Mapping[str, Sequence[TensorSpec]]): The stored tensors of each
            teacher.

    Attributes:
        entries (tuple[PackedTensor, ...]): The tensors, in the order of the
            teachers.
        nbytes (int): Bytes per sample.
        has_padding (bool): Whether there are bytes between tensors.

    Raises:
        InputError: If a tensor has a dtype that torch lacks.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.teacher_outputs import PackedLayout, TensorSpec
        >>> layout = PackedLayout({'a': [TensorSpec('logits', (10,), 'float16')]})
        >>> layout.nbytes
        24
        >>> layout.unpack(torch.zeros(32, 24, dtype=torch.uint8))['a']['logits'].shape
        torch.Size([32, 10])
    """

    def __init__(self, tensors: Mapping[str, Sequence[TensorSpec]]) -> None:
        entries = []
        position = 0
        for teacher, specs in tensors.items():
            for spec in specs:
                if not spec.dtype.startswith('float'):
                    raise InputError(
                        f'"{spec.name}" of teacher "{teacher}" is stored as {spec.dtype}, but '
                        'outputs must be float16 or float32.'
                    )
                entries.append(PackedTensor(teacher, spec, position))
                position += -(-spec.row_bytes // _ALIGNMENT) * _ALIGNMENT
        self.entries = tuple(entries)
        self.nbytes = position
        self.has_padding = sum(entry.spec.row_bytes for entry in entries) < position

    def pack(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        """Pack tensors into rows, the reverse of :meth:`unpack`.

        Args:
            tensors (Mapping[str, Mapping[str, Tensor]]): For each teacher its
                tensors by name, each of shape (B, *shape) and of its data type.

        Returns:
            Tensor: Shape (B, nbytes), uint8, on the device of the tensors.
        """
        first = self.entries[0]
        like = tensors[first.teacher][first.spec.name]
        packed = torch.zeros(len(like), self.nbytes, dtype=torch.uint8, device=like.device)
        for name, views in self.unpack(packed).items():
            for tensor, view in views.items():
                view.copy_(tensors[name][tensor])
        return packed

    def unpack(self, packed: Tensor) -> dict[str, dict[str, Tensor]]:
        """Return the tensors in a packed batch, which share its memory.

        Args:
            packed (Tensor): Packed rows, shape (B, nbytes), uint8, on any
                device; contiguous in the second dimension.

        Returns:
            dict[str, dict[str, Tensor]]: For each teacher its tensors by name,
            each of shape (B, *shape).

        Raises:
            InputError: If the shape or dtype is another one.
        """
        self._check(packed.ndim, tuple(packed.shape), packed.dtype == torch.uint8)
        tensors: dict[str, dict[str, Tensor]] = {}
        for entry in self.entries:
            spec = entry.spec
            part = packed[:, entry.offset : entry.offset + spec.row_bytes]
            tensor = part.view(getattr(torch, spec.dtype))
            tensor = tensor.squeeze(1) if not spec.shape else tensor.unflatten(1, spec.shape)
            tensors.setdefault(entry.teacher, {})[spec.name] = tensor
        return tensors

    def unpack_numpy(self, packed: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """Return the arrays in a packed batch, which share its memory.

        Args:
            packed (np.ndarray): Packed rows, shape (B, nbytes), uint8,
                contiguous.

        Returns:
            dict[str, dict[str, np.ndarray]]: As from :meth:`unpack`.

        Raises:
            InputError: If the shape or dtype is another one.
        """
        self._check(packed.ndim, packed.shape, packed.dtype == np.uint8)
        arrays: dict[str, dict[str, np.ndarray]] = {}
        for entry in self.entries:
            spec = entry.spec
            part = packed[:, entry.offset : entry.offset + spec.row_bytes]
            # A reshape that only divides an axis makes no copy.
            array = part.view(spec.dtype).reshape(len(packed), *spec.shape)
            arrays.setdefault(entry.teacher, {})[spec.name] = array
        return arrays

    def _check(self, ndim: int, shape: tuple[int, ...], is_uint8: bool) -> None:
        if ndim != 2 or shape[1] != self.nbytes or not is_uint8:
            raise InputError(
                f'A packed batch must have the shape (B, {self.nbytes}) and the dtype uint8, but '
                f'has the shape {shape}{"" if is_uint8 else " and another dtype"}.'
            )
