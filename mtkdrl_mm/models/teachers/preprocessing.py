# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""From the student's batch to what a teacher expects."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mtkdrl_mm.utils import InputError


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation that turns raw BGR pixels in [0, 255] into a network's input.

    Attributes:
        mean (tuple[float, ...]): Per channel, in the network's own order.
        std (tuple[float, ...]): Per channel, in the network's own order.
        to_rgb (bool): Whether the network wants RGB instead of BGR.
        input_size (tuple[int, int], optional): Height and width that the
            network wants; None takes the student's.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    to_rgb: bool = False
    input_size: tuple[int, int] | None = None

    @classmethod
    def from_config(cls, cfg: dict[str, Any], role: str, input_size: Any = None) -> 'Preprocessing':
        """Read an mmpretrain ``data_preprocessor`` config.

        Args:
            cfg (dict): With the keys ``mean``, ``std`` and ``to_rgb`` (all optional,
                as in ``ClsDataPreprocessor``).
            role (str): Whose it is, for messages.
            input_size (int | tuple, optional): Side, or height and width.

        Raises:
            InputError: If mean and std do not fit, a std is not positive, or
                ``input_size`` is unusable.
        """
        mean, std = cfg.get('mean'), cfg.get('std')
        if mean is None:
            mean, std = cls.mean, cls.std
        if std is None or len(std) != len(mean) or len(mean) not in (1, 3) or min(std) <= 0:
            raise InputError(
                f'The data_preprocessor of {role} has mean={mean} and std={std}: give one or '
                'three numbers in `mean`, and as many positive ones in `std`.'
            )
        if len(mean) == 1:  # the same for all channels
            mean, std = [*mean] * 3, [*std] * 3
        if isinstance(input_size, int):
            input_size = (input_size, input_size)
        if input_size is not None and (
            not isinstance(input_size, (tuple, list))
            or len(input_size) != 2
            or not all(isinstance(side, int) and side > 0 for side in input_size)
        ):
            raise InputError(
                f'The `input_size` of {role} must be a positive integer or (height, width), but '
                f'is {input_size!r}.'
            )
        return cls(
            mean=tuple(map(float, mean)),
            std=tuple(map(float, std)),
            to_rgb=bool(cfg.get('to_rgb', False)),
            input_size=tuple(input_size) if input_size is not None else None,
        )

    def convert(self, inputs: Tensor, source: 'Preprocessing') -> Tensor:
        """Turn a batch prepared for ``source`` into one prepared for this.

        Both normalisations are affine in each channel, so the way back to raw
        pixels and on to this network's input is one scale and one shift, also
        for images that mixup or cutmix has blended.

        Args:
            inputs (Tensor): Shape (B, 3, H, W), as ``source`` normalised it.
            source (Preprocessing): How it was normalised.

        Returns:
            Tensor: Shape (B, 3, *input_size); ``inputs`` itself where nothing
            differs.
        """
        source_mean, source_std = source.mean, source.std
        if self.to_rgb != source.to_rgb:
            inputs = inputs.flip(1)
            source_mean, source_std = source_mean[::-1], source_std[::-1]
        if (source_mean, source_std) != (self.mean, self.std):
            scale = tuple(s / t for s, t in zip(source_std, self.std))
            shift = tuple((m - n) / t for m, n, t in zip(source_mean, self.mean, self.std))
            kind = (inputs.dtype, inputs.device)
            inputs = inputs * _per_channel(scale, *kind) + _per_channel(shift, *kind)
        if self.input_size is not None and inputs.shape[-2:] != self.input_size:
            inputs = F.interpolate(
                inputs, size=self.input_size, mode='bicubic', align_corners=False, antialias=True
            )
        return inputs


@cache
def _per_channel(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Cached, so that no step waits for a copy from the host.
    return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1)
