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

from .manifest import TensorSpec
from .packed_layout import PackedLayout
from .settings import TeacherOutputsSettings

# Names of a stored map, and whether its entries are negative as often as positive.
_MAPS = {
    'feature_map': False,
    'token_map': True,
    'pooled_map': False,
    'pooled_token_map': True,
    'map_components': False,
    'token_map_components': True,
}


def stored_tensors(
    settings: TeacherOutputsSettings, output: NetworkOutput, of_tokens: bool = False
) -> tuple[TensorSpec, ...]:
    """Which tensors are stored of a teacher.

    Args:
        settings (TeacherOutputsSettings): Data type and kind of maps.
        output (NetworkOutput): Outputs of the teacher for any images.
        of_tokens (bool): Whether its map consists of a transformer's tokens.

    Returns:
        tuple[TensorSpec, ...]: Logits, embedding, and the map if there is one.
        A map with no more channels than it is to be projected onto is stored
        as it is.
    """
    dtype = settings.logits
    specs = [
        TensorSpec('logits', tuple(output.logits.shape[1:]), dtype),
        TensorSpec('embedding', tuple(output.embedding.shape[1:]), dtype),
    ]
    if output.feature_map is None or settings.maps == 'none':
        return tuple(specs)
    channels, height, width = output.feature_map.shape[1:]
    if settings.maps == 'projected' and settings.map_channels < channels:
        name = 'token_map_components' if of_tokens else 'map_components'
        specs.append(TensorSpec(name, (settings.map_channels, height, width), dtype))
    elif settings.maps == 'pooled':
        name = 'pooled_token_map' if of_tokens else 'pooled_map'
        specs.append(TensorSpec(name, (channels, 1, 1), dtype))
    else:
        name = 'token_map' if of_tokens else 'feature_map'
        specs.append(TensorSpec(name, (channels, height, width), dtype))
    return tuple(specs)


def stored_form(tensors: Sequence[TensorSpec]) -> dict[str, Any]:
    """The settings with which the tensors of a teacher were stored.

    Args:
        tensors (Sequence[TensorSpec]): From its manifest.

    Returns:
        dict[str, Any]: ``logits``, ``maps``, and ``map_channels`` of projected
        maps, see :class:`TeacherOutputsSettings`.
    """
    form: dict[str, Any] = dict(logits=tensors[0].dtype, maps='none')
    for spec in tensors:
        if _is_projected(spec.name):
            form.update(maps='projected', map_channels=spec.shape[0])
        elif spec.name in _MAPS:
            form['maps'] = 'pooled' if spec.name.startswith('pooled') else 'full'
    return form


class BasisFit:
    r"""Fits the principal components of a teacher's maps, over images and positions.

    Of a map F, z is stored, and the map that is read is F':

    .. math::
        z = U (F - \mu), \qquad F' = U^T z + \mu

    with the k leading components in the rows of U. Of all maps that k numbers
    per position determine linearly, F' is on average nearest to F. Where F comes
    from a ReLU, negative entries of F' are replaced by zero, which is nearer
    still.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.teacher_outputs import BasisFit
        >>> fit = BasisFit()
        >>> fit.update(torch.rand(8, 16, 4, 4))
        >>> fit.basis(channels=3)['components'].shape
        (3, 16)
    """

    def __init__(self) -> None:
        self._count = 0
        self._shift: Tensor | None = None
        self._sum: Tensor | None = None
        self._products: Tensor | None = None

    def update(self, maps: Tensor) -> None:
        """Add the maps of some images.

        Args:
            maps (Tensor): Shape (B, c, h, w).
        """
        rows = maps.detach().float().permute(0, 2, 3, 1).flatten(0, 2)
        if self._shift is None:
            # Some channels of transformers have means a hundred times their deviation, whose
            # squares would leave no digits for it.
            self._shift = rows.mean(dim=0)
        rows = rows - self._shift
        self._count += len(rows)
        # Of a batch in float32, over the batches in float64.
        total, products = rows.sum(dim=0).double(), (rows.T @ rows).double()
        self._sum = total if self._sum is None else self._sum + total
        self._products = products if self._products is None else self._products + products

    def basis(self, channels: int) -> dict[str, np.ndarray]:
        """Compute the basis.

        Args:
            channels (int): k.

        Returns:
            dict[str, np.ndarray]: ``components`` U (k, c), ``mean`` mu (c,),
            float32, and ``explained``, the share of the variance, of shape ().
        """
        assert self._shift is not None and self._sum is not None and self._products is not None
        mean = self._sum.div(self._count)
        covariance = self._products.div(self._count) - torch.outer(mean, mean)
        mean = mean + self._shift.double()
        values, vectors = torch.linalg.eigh(covariance)
        components = vectors.T.flip(0)[:channels]
        # An eigenvector has no sign of its own.
        largest = components.abs().argmax(dim=1, keepdim=True)
        components = components * components.gather(1, largest).sign()
        kept = values.flip(0)[:channels].sum().div(values.sum().clamp(min=1e-12))
        return dict(
            components=components.float().cpu().numpy(),
            mean=mean.float().cpu().numpy(),
            explained=kept.float().cpu().numpy(),
        )


class OutputCodec:
    """Converts outputs of a pool to packed rows of a store, and back.

    Live outputs that go through both have the values that a later training
    reads.

    Args:
        layout (PackedLayout): The tensors of every teacher.
        bases (Mapping[str, Mapping[str, np.ndarray]], optional): Bases of the
            teachers whose maps are projected, from :class:`BasisFit`. Defaults
            to None.

    Attributes:
        saturated (int): Number of values beyond the range of float16, which
            were replaced by its largest number.

    Raises:
        InputError: If there is a tensor that this version does not know, or a
            projected map without its basis.
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
            name: (torch.tensor(basis['components']), torch.tensor(basis['mean']))
            for name, basis in (bases or {}).items()
        }
        for name, specs in self._specs.items():
            for spec in specs:
                if spec.name not in ('logits', 'embedding', *_MAPS):
                    raise InputError(
                        f'The stored outputs of teacher "{name}" hold "{spec.name}", which this '
                        'version of mtkdrl_mm does not know. Use the version that wrote them.'
                    )
                if _is_projected(spec.name) and name not in self._bases:
                    raise InputError(
                        f'The projected maps of teacher "{name}" have no basis in its manifest, so '
                        'they cannot be read. Remove its folder and store this teacher again.'
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
        return len(self._bases[teacher][1]) if _is_projected(spec.name) else spec.shape[0]

    def has_signed_map(self, teacher: str) -> bool:
        """Whether the entries of a teacher's map are negative as often as positive."""
        spec = self._map_spec(teacher)
        return spec is not None and _MAPS[spec.name]

    def _map_spec(self, teacher: str) -> TensorSpec | None:
        return next((spec for spec in self._specs[teacher] if spec.name in _MAPS), None)

    def size(self, teacher: str, tensor: str) -> int:
        """Length of a teacher's ``'logits'`` or ``'embedding'``."""
        return next(s.shape[0] for s in self._specs[teacher] if s.name == tensor)

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
        if not _is_projected(name):
            return feature_map
        components, mean = self._basis(teacher, feature_map.device)
        # Not in the half precision of the training.
        with autocast(feature_map.device.type, enabled=False):
            centred = feature_map.float() - mean[:, None, None]
            # Image by image: the roundings do not depend on the batch.
            return torch.stack([torch.tensordot(components, one, dims=1) for one in centred])

    def _restore_map(self, teacher: str, name: str, stored: Tensor) -> Tensor:
        if not _is_projected(name):
            return stored
        components, mean = self._basis(teacher, stored.device)
        with autocast(stored.device.type, enabled=False):
            # A product for each image: the roundings do not depend on the batch, and an image
            # has the same map whether it was computed or read, in whatever order.
            rows = torch.bmm(
                stored.flatten(2).transpose(1, 2), components.expand(len(stored), -1, -1)
            )
        restored = rows.add(mean).unflatten(1, stored.shape[2:]).permute(0, 3, 1, 2)
        return restored if _MAPS[name] else restored.clamp_(min=0)

    def _basis(self, teacher: str, device: torch.device) -> tuple[Tensor, Tensor]:
        components, mean = (part.to(device) for part in self._bases[teacher])
        self._bases[teacher] = components, mean  # copied to the device once
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
            all channels of the teacher, see :class:`BasisFit`.
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
                    embedding=whole['embedding'],
                    feature_map=maps[0] if maps else None,
                )
            )
        return outputs


def _is_projected(name: str) -> bool:
    return name.endswith('map_components')
