# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""MobileNetV2, for images of 32x32 pixels."""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmpretrain.models import MobileNetV2
from torch import nn

from mtkdrl_mm.registry import MODELS


@MODELS.register_module()
class CIFARMobileNetV2(MobileNetV2):
    """MobileNetV2 with a stride of 16 in all, up to its last inverted residual.

    Source: arXiv:1801.04381. The network of the CIFAR experiments differs in
    three ways: the second stage keeps the resolution, the first block has an
    expansion too (by a factor of 1), and its activations are ReLU.

    The map that distillation compares is the 320 channels of the last stage.
    The closing 1x1 convolution to 1,280 channels therefore is not here, but
    before the pooling in :class:`ConvGlobalAveragePooling`.

    Args:
        widen_factor (float): Multiplies all numbers of channels. Defaults to 1.
        out_indices (Sequence[int]): Stages whose maps are returned, 0 to 6.
            Defaults to (6,).
        act_cfg (dict): Activation layers. Defaults to ``dict(type='ReLU')``.
        **kwargs: The other arguments of mmpretrain's ``MobileNetV2``, such as
            ``frozen_stages``, ``norm_eval``, ``norm_cfg`` and ``init_cfg``.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.models import CIFARMobileNetV2
        >>> CIFARMobileNetV2()(torch.zeros(1, 3, 32, 32))[-1].shape
        torch.Size([1, 320, 2, 2])
    """

    # expansion, channels, blocks, stride
    arch_settings = [
        [1, 16, 1, 1],
        [6, 24, 2, 1],
        [6, 32, 3, 2],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]

    def __init__(
        self,
        widen_factor: float = 1.0,
        out_indices: Sequence[int] = (6,),
        act_cfg: dict = dict(type='ReLU'),  # noqa: B006, the OpenMMLab way
        **kwargs: Any,
    ) -> None:
        super().__init__(widen_factor, out_indices=out_indices, act_cfg=act_cfg, **kwargs)
        stem_channels = self.conv1.out_channels
        block = self.layer1[0]
        block.conv = nn.Sequential(
            ConvModule(
                stem_channels,
                stem_channels,
                kernel_size=1,
                conv_cfg=self.conv_cfg,
                norm_cfg=self.norm_cfg,
                act_cfg=self.act_cfg,
            ),
            *block.conv,
        )
        self.layers.remove('conv2')
        del self.conv2
        self.out_channel = self.in_channels
