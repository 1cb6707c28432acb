# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Conversion of the student's batch to the preprocessing of a teacher."""

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.utils import to_2tuple
from torch import Tensor

from mtkdrl_mm.utils import InputError

from ..build_preprocessor import check_preprocessor


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of a network: normalisation of BGR pixels in [0, 255], and input size.

    Attributes:
        mean (tuple[float, ...]): Mean per channel, in the network's channel order.
            Its length is the number of input channels.
        std (tuple[float, ...]): Standard deviation per channel.
        to_rgb (bool): Whether the channel order is RGB instead of BGR.
        input_size (tuple[int, int], optional): Height and width of the inputs;
            None keeps those of the student's.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    to_rgb: bool = False
    input_size: tuple[int, int] | None = None

    @classmethod
    def from_config(
        cls, cfg: dict[str, Any], role: str, input_size: Any = None, channels: int = 3
    ) -> 'Preprocessing':
        """Build from an mmpretrain ``data_preprocessor`` config.

        Args:
            cfg (dict): With the keys ``mean``, ``std`` and ``to_rgb`` (all optional,
                as in ``ClsDataPreprocessor``).
            role (str): "student" or the teacher's name, for messages.
            input_size (int | tuple, optional): Side, or height and width.
            channels (int): Number of input channels. Defaults to 3.

        Raises:
            InputError: If it is no dict, mean and std are no numbers or do not fit, a
                std is not positive, or ``input_size`` is unusable.
        """
        check_preprocessor(cfg, role)
        given, given_std = cfg.get('mean'), cfg.get('std')
        mean, std = ([0.0], [1.0]) if given is None else (_numbers(given), _numbers(given_std))
        if not mean or len(std) != len(mean) or len(mean) not in (1, channels) or min(std) <= 0:
            wanted = {1: 'one number', 3: 'one or three numbers'}.get(
                channels, f'one number or {channels}'
            )
            raise InputError(
                f'The data_preprocessor of {role} has mean={given!r} and std={given_std!r}: give '
                f'{wanted} in `mean`, and as many positive ones in `std`.'
            )
        if len(mean) == 1:  # the same for all channels
            mean, std = mean * channels, std * channels
        return cls(
            mean=tuple(mean),
            std=tuple(std),
            to_rgb=bool(cfg.get('to_rgb', False)),
            input_size=check_input_size(input_size, role),
        )

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return len(self.mean)

    def convert(self, inputs: Tensor, source: 'Preprocessing') -> Tensor:
        """Convert a batch from another preprocessing to this one.

        Both normalisations are affine in each channel, so the conversion is one
        scale and one shift per channel, also for images that were blended by
        mixup or cutmix.

        A grey image becomes a colour image by repeating its channel, and a
        colour image becomes a grey one by its luminance (ITU-R BT.601, as in
        OpenCV).

        Args:
            inputs (Tensor): The batch as normalised by ``source``, shape
                (B, c, H, W).
            source (Preprocessing): Its preprocessing.

        Returns:
            Tensor: Shape (B, channels, *input_size); ``inputs`` itself if
            nothing differs.

        Raises:
            InputError: If the numbers of channels differ and are not 1 and 3.
        """
        if self.channels != source.channels:
            inputs, source = self._convert_channels(inputs, source)
        source_mean, source_std = source.mean, source.std
        if self.to_rgb != source.to_rgb and self.channels == 3:
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

    def _convert_channels(
        self, inputs: Tensor, source: 'Preprocessing'
    ) -> tuple[Tensor, 'Preprocessing']:
        """Convert grey to colour or back; return the images and their preprocessing."""
        if (source.channels, self.channels) == (1, 3):
            wide = replace(source, mean=source.mean * 3, std=source.std * 3, to_rgb=self.to_rgb)
            return inputs.expand(-1, 3, -1, -1), wide
        if (source.channels, self.channels) == (3, 1):
            kind = (inputs.dtype, inputs.device)
            raw = inputs * _per_channel(source.std, *kind) + _per_channel(source.mean, *kind)
            luminance = (0.299, 0.587, 0.114) if source.to_rgb else (0.114, 0.587, 0.299)
            grey = (raw * _per_channel(luminance, *kind)).sum(dim=1, keepdim=True)
            return grey, replace(source, mean=(0.0,), std=(1.0,))
        raise InputError(
            f'The student takes images with {source.channels} channels and a teacher with '
            f'{self.channels}: only grey and colour images can be converted into each other.'
        )


def _numbers(values: Any) -> list[float]:
    """A list of finite numbers; empty if it is something else."""
    try:
        found = [] if isinstance(values, str) else [float(value) for value in values]
    except (TypeError, ValueError):
        return []
    return found if all(map(math.isfinite, found)) else []


def check_input_size(value: Any, role: str) -> tuple[int, int] | None:
    """Check an ``input_size`` and convert it to (height, width).

    Args:
        value (int | Sequence[int] | None): Side, or height and width.
        role (str): "student" or the teacher's name, for the message.

    Returns:
        tuple[int, int] | None: Height and width; None if there is none.

    Raises:
        InputError: If the value is none of these.
    """
    if value is None:
        return None
    sides = to_2tuple(value)
    if (
        not isinstance(sides, (tuple, list))
        or len(sides) != 2
        or not all(type(side) is int and side > 0 for side in sides)
    ):
        raise InputError(
            f'The `input_size` of {role} must be a positive integer or (height, width), but is '
            f'{value!r}.'
        )
    return (sides[0], sides[1])


@cache
def _per_channel(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Cached: a new tensor in each step would wait for a copy from the host.
    return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1)
