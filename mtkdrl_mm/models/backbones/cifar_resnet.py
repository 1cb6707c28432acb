# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""ResNet of depth 6n + 2, for images of 32x32 pixels."""

from collections.abc import Sequence
from typing import Any

from mmpretrain.models import ResNet_CIFAR
from mmpretrain.models.backbones.resnet import BasicBlock

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.utils import InputError


@MODELS.register_module()
class CIFARResNet(ResNet_CIFAR):
    """Three stages of n basic blocks each, the ResNet of the CIFAR experiments.

    mmpretrain's ``ResNet_CIFAR`` has ImageNet's four stages. Source:
    arXiv:1512.03385, section 4.2, but with projections (1x1 convolution and
    normalisation) where a shortcut changes its shape. What the distillation
    literature calls ResNet-56 is ``depth=56``, its ResNet-32x4 and ResNet-8x4
    are ``depth=32`` and ``depth=8`` with ``stem_channels=32, base_channels=64``.

    Args:
        depth (int): Number of layers, 6n + 2 with n >= 1, the classifier
            included.
        stem_channels (int): Channels of the first convolution. Defaults to 16.
        base_channels (int): Channels of the first stage; the second has twice,
            the third four times as many. Defaults to 16.
        strides (Sequence[int]): Stride of every stage's first block. Defaults
            to (1, 2, 2).
        dilations (Sequence[int]): Dilation of every stage. Defaults to
            (1, 1, 1).
        out_indices (Sequence[int]): Stages whose maps are returned, 0 to 2.
            Defaults to (2,).
        zero_init_residual (bool): Whether the last normalisation of every block
            starts from zero. Defaults to False, as published.
        **kwargs: The other arguments of mmpretrain's ``ResNet``, such as
            ``frozen_stages``, ``norm_eval``, ``norm_cfg`` and ``init_cfg``.

    Raises:
        InputError: If there is no n for ``depth``.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.models import CIFARResNet
        >>> backbone = CIFARResNet(depth=56, out_indices=(0, 1, 2))
        >>> [tuple(m.shape) for m in backbone(torch.zeros(1, 3, 32, 32))]
        [(1, 16, 32, 32), (1, 32, 16, 16), (1, 64, 8, 8)]
    """

    def __init__(
        self,
        depth: int,
        stem_channels: int = 16,
        base_channels: int = 16,
        strides: Sequence[int] = (1, 2, 2),
        dilations: Sequence[int] = (1, 1, 1),
        out_indices: Sequence[int] = (2,),
        zero_init_residual: bool = False,
        **kwargs: Any,
    ) -> None:
        # The parent looks its depth up here.
        self.arch_settings = {depth: (BasicBlock, (blocks_per_stage(depth, 2, 'ResNet'),) * 3)}
        super().__init__(
            depth,
            stem_channels=stem_channels,
            base_channels=base_channels,
            num_stages=3,
            strides=strides,
            dilations=dilations,
            out_indices=out_indices,
            zero_init_residual=zero_init_residual,
            **kwargs,
        )


def blocks_per_stage(depth: int, others: int, name: str) -> int:
    """Number n of blocks in each of three stages, of two convolutions each.

    Args:
        depth (int): 6n + ``others``.
        others (int): Number of layers that are in no block.
        name (str): Of the architecture, for the message.

    Returns:
        int: n.

    Raises:
        InputError: If there is no such n >= 1.
    """
    whole = isinstance(depth, int) and not isinstance(depth, bool)
    if not whole or depth < 6 + others or (depth - others) % 6:
        raise InputError(
            f'`depth` of a {name} for CIFAR must be 6n + {others} with n >= 1 ('
            + ', '.join(str(6 * n + others) for n in range(1, 5))
            + f', ...), but is {depth!r}.'
        )
    return (depth - others) // 6
