# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Conversion between the outputs of networks and the tensors of a store."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.amp.autocast_mode import autocast

from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.utils.errors import InputError

from .basis_fit import basis_key
from .manifest import TensorSpec
from .packed_layout import PackedLayout
from .settings import TeacherOutputsSettings

EMBEDDING_KEYS = ('embedding', 'embedding_components')
# Names of a stored map, and whether its entries may be negative; tokens were the first such maps.
_MAPS = {
    'feature_map': False,
    'token_map': True,
    'pooled_map': False,
    'pooled_token_map': True,
    'map_components': False,
    'token_map_components': True,
}


def stored_tensors(
    settings: TeacherOutputsSettings, output: NetworkOutput, signed_map: bool = False
) -> tuple[TensorSpec, ...]:
    """Which tensors are stored of a teacher.

    Args:
        settings (TeacherOutputsSettings): Data type and kind of maps.
        output (NetworkOutput): Outputs of the teacher for any images.
        signed_map (bool): Whether entries of its map may be negative. Defaults to False.

    Returns:
        tuple[TensorSpec, ...]: Logits, embedding, and the map if there is one.
        What has no more channels than it is to be projected onto is stored as
        it is.
    """
    dtype = settings.logits
    specs = [TensorSpec('logits', tuple(output.logits.shape[1:]), dtype)]
    size = output.embedding.shape[1]
    if settings.embeddings == 'projected' and settings.embedding_channels < size:
        specs.append(TensorSpec('embedding_components', (settings.embedding_channels,), dtype))
    else:
        specs.append(TensorSpec('embedding', (size,), dtype))
    if output.feature_map is None or settings.maps == 'none':
        return tuple(specs)
    channels, height, width = output.feature_map.shape[1:]
    if settings.maps == 'projected' and settings.map_channels < channels:
        name = 'token_map_components' if signed_map else 'map_components'
        specs.append(TensorSpec(name, (settings.map_channels, height, width), dtype))
    elif settings.maps == 'pooled':
        name = 'pooled_token_map' if signed_map else 'pooled_map'
        specs.append(TensorSpec(name, (channels, 1, 1), dtype))
    else:
        name = 'token_map' if signed_map else 'feature_map'
        specs.append(TensorSpec(name, (channels, height, width), dtype))
    return tuple(specs)


def stored_form(tensors: Sequence[TensorSpec]) -> dict[str, Any]:
    """The settings with which the tensors of a teacher were stored.

    Args:
        tensors (Sequence[TensorSpec]): From its manifest.

    Returns:
        dict[str, Any]: ``logits``, ``embeddings``, ``maps``, and the numbers of
        components of what is projected, see :class:`TeacherOutputsSettings`.
    """
    form: dict[str, Any] = dict(logits=tensors[0].dtype, embeddings='full', maps='none')
    for spec in tensors:
        if spec.name == 'embedding_components':
            form.update(embeddings='projected', embedding_channels=spec.shape[0])
        elif _is_projected(spec.name):
            form.update(maps='projected', map_channels=spec.shape[0])
        elif spec.name in _MAPS:
            form['maps'] = 'pooled' if spec.name.startswith('pooled') else 'full'
    return form


class OutputCodec:
    """Converts outputs of a pool to packed rows of a store, and back.

    Live outputs that go through both have the values that a later training
    reads.

    Args:
        layout (PackedLayout): The tensors of every teacher.
        bases (Mapping[str, Mapping[str, np.ndarray]], optional): Bases of the
            teachers of which something is projected, from :class:`BasisFit`,
            see :func:`name_basis`. Defaults to None.

    Attributes:
        saturated (int): Number of values beyond the range of float16, which
            were replaced by its largest number.

    Raises:
        InputError: If there is a tensor that this version does not know, or
            components without their basis.
    """

    def __init__(
        self,
        layout: PackedLayout,
        bases: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    ) -> None:
        self.layout = layout
        self.saturated = 0
        self._specs: dict[str, list[TensorSpec]] = {}
        for entry in layout.entries:
            self._specs.setdefault(entry.teacher, []).append(entry.spec)
        self._bases = {
            (name, key): (
                torch.tensor(basis[f'{key}components']),
                torch.tensor(basis[f'{key}mean']),
            )
            for name, basis in (bases or {}).items()
            for key in map(basis_key, ('embeddings', 'maps'))
            if f'{key}components' in basis
        }
        means = ((key, mean) for key, (_, mean) in self._bases.items())
        self._negative_means = {key: bool(mean.lt(0).any()) for key, mean in means}
        for name, specs in self._specs.items():
            for spec in specs:
                if spec.name not in ('logits', *EMBEDDING_KEYS, *_MAPS):
                    raise InputError(
                        f'The stored outputs of teacher "{name}" hold "{spec.name}", which this '
                        'version of mtkdrl_mm does not know. Use the version that wrote them.'
                    )
                if _is_projected(spec.name) and (name, _basis_key(spec.name)) not in self._bases:
                    raise InputError(
                        f'"{spec.name}" of teacher "{name}" have no basis in its manifest, so they '
                        'cannot be read. Remove its folder and store this teacher again.'
                    )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the teachers."""
        return tuple(self._specs)

    def map_channels(self, teacher: str) -> int | None:
        """Number of channels of a teacher's maps as they are read; None without maps."""
        spec = self._map_spec(teacher)
        if spec is None:
            return None
        if not _is_projected(spec.name):
            return spec.shape[0]
        return len(self._bases[teacher, _basis_key(spec.name)][1])

    def has_signed_map(self, teacher: str) -> bool:
        """Whether entries of a teacher's map may be negative."""
        spec = self._map_spec(teacher)
        return spec is not None and self._is_signed(teacher, spec.name)

    def _is_signed(self, teacher: str, name: str) -> bool:
        if _MAPS[name] or not _is_projected(name):
            return _MAPS[name]
        # Version 0.1 took all maps but those of tokens for outputs of a ReLU, whose means are
        # not negative.
        return self._negative_means[teacher, _basis_key(name)]

    def _map_spec(self, teacher: str) -> TensorSpec | None:
        return next((spec for spec in self._specs[teacher] if spec.name in _MAPS), None)

    def num_classes(self, teacher: str) -> int:
        """Length of a teacher's logits."""
        return next(s.shape[0] for s in self._specs[teacher] if s.name == 'logits')

    def embedding_size(self, teacher: str) -> int:
        """Length of a teacher's embeddings as they are read."""
        return self._embedding_spec(teacher).shape[0]

    def embedding_scale(self, teacher: str) -> float:
        """Factor by which the components of a teacher's embeddings are scaled; 1 in full."""
        spec = self._embedding_spec(teacher)
        if not _is_projected(spec.name):
            return 1.0
        return float((spec.shape[0] / len(self._bases[teacher, _basis_key(spec.name)][1])) ** 0.5)

    def _embedding_spec(self, teacher: str) -> TensorSpec:
        return next(spec for spec in self._specs[teacher] if spec.name in EMBEDDING_KEYS)

    def to_tensors(self, teacher: str, output: NetworkOutput) -> dict[str, Tensor]:
        """Convert the outputs of one teacher to the tensors that are stored.

        Args:
            teacher (str): Name of the teacher.
            output (NetworkOutput): Its outputs for B images.

        Returns:
            dict[str, Tensor]: By name, each of shape (B, *shape), of the stored
            data type.

        Raises:
            InputError: If an output has another shape than what is stored.
        """
        tensors = {}
        for spec in self._specs[teacher]:
            if spec.name in ('logits', 'embedding'):
                tensor = getattr(output, spec.name)
            elif spec.name == 'embedding_components':
                tensor = self._project(teacher, spec.name, output.embedding)
                tensor = tensor * self.embedding_scale(teacher)
            else:
                assert output.feature_map is not None
                tensor = self._convert_map(teacher, spec.name, output.feature_map)
            if tuple(tensor.shape[1:]) != spec.shape:
                raise InputError(
                    f'"{spec.name}" of teacher "{teacher}" has the shape '
                    f'{tuple(tensor.shape[1:])}, but {spec.shape} is stored: the images have '
                    'another size than those that were stored.'
                )
            tensors[spec.name] = self._cast(tensor, getattr(torch, spec.dtype))
        return tensors

    def _convert_map(self, teacher: str, name: str, feature_map: Tensor) -> Tensor:
        if name.startswith('pooled'):
            return feature_map.float().mean(dim=(2, 3), keepdim=True)
        return self._project(teacher, name, feature_map) if _is_projected(name) else feature_map

    def _project(self, teacher: str, name: str, features: Tensor) -> Tensor:
        """U (F - mu), of shape (B, k) or (B, k, h, w)."""
        components, mean = self._basis(teacher, name, features.device)
        # Not in the half precision of the training.
        with autocast(features.device.type, enabled=False):
            # Image by image: the roundings do not depend on the batch.
            return torch.stack(
                [
                    torch.tensordot(components, one - mean.view(-1, *[1] * (one.dim() - 1)), dims=1)
                    for one in features.float()
                ]
            )

    def _restore_map(self, teacher: str, name: str, stored: Tensor) -> Tensor:
        if not _is_projected(name):
            return stored
        components, mean = self._basis(teacher, name, stored.device)
        with autocast(stored.device.type, enabled=False):
            # A product for each image: the roundings do not depend on the batch, and an image
            # has the same map whether it was computed or read, in whatever order.
            rows = torch.bmm(
                stored.flatten(2).transpose(1, 2), components.expand(len(stored), -1, -1)
            )
        restored = rows.add(mean).unflatten(1, stored.shape[2:]).permute(0, 3, 1, 2)
        return restored if self._is_signed(teacher, name) else restored.clamp_(min=0)

    def _basis(self, teacher: str, name: str, device: torch.device) -> tuple[Tensor, Tensor]:
        key = teacher, _basis_key(name)
        components, mean = (part.to(device) for part in self._bases[key])
        self._bases[key] = components, mean  # copied to the device once
        return components, mean

    def _cast(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        if dtype == torch.float16 and tensor.dtype != torch.float16:
            if tensor.dtype == torch.bfloat16:
                # It would round the largest number of float16 to one beyond it.
                tensor = tensor.float()
            largest = torch.finfo(dtype).max
            finite = tensor.isfinite()
            self.saturated += int(((tensor.abs() > largest) & finite).sum())
            # What is not finite stays so, and is refused by the writer.
            tensor = torch.where(finite, tensor.clamp(-largest, largest), tensor)
        return tensor.to(dtype)

    def encode(self, outputs: Sequence[NetworkOutput]) -> Tensor:
        """Convert the outputs of all teachers to packed rows.

        Args:
            outputs (Sequence[NetworkOutput]): In the order of the layout, for B
                images.

        Returns:
            Tensor: Shape (B, nbytes), uint8, on the outputs' device.

        Raises:
            InputError: As :meth:`to_tensors`.
        """
        return self.layout.pack(
            {name: self.to_tensors(name, output) for name, output in zip(self.names, outputs)}
        )

    def decode(self, packed: Tensor) -> list[NetworkOutput]:
        """Convert packed rows to outputs.

        Args:
            packed (Tensor): Shape (B, nbytes), uint8, on any device.

        Returns:
            list[NetworkOutput]: In float32, without gradient, and contiguous as
            those of networks; pooled maps of one position, projected maps with
            all channels of the teacher, projected embeddings as they are stored,
            see :class:`BasisFit`.
        """
        outputs = []
        for teacher, tensors in self.layout.unpack(packed).items():
            # Sums over strided tensors would be rounded in another order.
            whole = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
            maps = [
                self._restore_map(teacher, name, tensor)
                for name, tensor in whole.items()
                if name in _MAPS
            ]
            outputs.append(
                NetworkOutput(
                    logits=whole['logits'],
                    embedding=next(whole[name] for name in EMBEDDING_KEYS if name in whole),
                    feature_map=maps[0] if maps else None,
                )
            )
        return outputs


def _basis_key(name: str) -> str:
    """The key of the basis on which a stored tensor depends."""
    return basis_key('embeddings' if name in EMBEDDING_KEYS else 'maps')


def _is_projected(name: str) -> bool:
    return name.endswith('_components')
