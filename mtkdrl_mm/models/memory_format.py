# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Contiguous and channels_last batches and networks."""

import torch
from torch import Tensor, nn

from mtkdrl_mm.utils import InputError


def memory_format(channels_last: bool) -> torch.memory_format:
    """The memory format that a setting means."""
    return torch.channels_last if channels_last else torch.contiguous_format


def is_channels_last(images: Tensor) -> bool:
    """Whether a batch is in channels_last memory format, and in no other."""
    return not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)


def check_trainable_in_channels_last(network: nn.Module, device: torch.device) -> None:
    """Refuse what torch's library for CPUs computes wrongly.

    Gradients of strided 1x1 convolutions of fewer than eight channels in
    channels_last are written beyond their memory: the process crashes, hangs,
    or has wrong gradients (https://github.com/uxlfoundation/oneDNN/issues/6035,
    seen with torch 2.1 and 2.14 and AVX2, whose blocks have eight channels;
    not tried with AVX-512). Inference is right.

    Args:
        network (nn.Module): A network that is trained.
        device (torch.device): Where.

    Raises:
        InputError: If it is a CPU, and the network has such a layer.
    """
    if device.type != 'cpu':
        return
    for name, layer in network.named_modules():
        if (
            isinstance(layer, nn.Conv2d)
            and layer.kernel_size == (1, 1)
            and max(layer.stride) > 1
            and layer.in_channels // layer.groups < 8
        ):
            raise InputError(
                f"model.channels_last=True: torch's library for CPUs computes wrong gradients of "
                f'strided 1x1 convolutions of fewer than 8 channels in this memory format, and '
                f'"{name}" of the student has {layer.in_channels // layer.groups}. Leave out '
                f'channels_last, which is then used on GPUs only.'
            )
