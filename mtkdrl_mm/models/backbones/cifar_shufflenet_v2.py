# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""ShuffleNetV2, for images of 32x32 pixels."""

from typing import Any

from mmcv.cnn import ConvModule
from mmpretrain.models import ShuffleNetV2
from torch import nn

from mtkdrl_mm.registry import MODELS


@MODELS.register_module()
class CIFARShuffleNetV2(ShuffleNetV2):
    """ShuffleNetV2 with a stride of 8 in all.

    Source: arXiv:1807.11164, with the stem of the CIFAR experiments: a 1x1
    convolution, without pooling.

    Args:
        widen_factor (float): 0.5, 1, 1.5 or 2. Defaults to 1.
        **kwargs: The other arguments of mmpretrain's ``ShuffleNetV2``, such as
            ``out_indices``, ``frozen_stages``, ``norm_eval`` and ``norm_cfg``.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.models import CIFARShuffleNetV2
        >>> CIFARShuffleNetV2()(torch.zeros(1, 3, 32, 32))[-1].shape
        torch.Size([1, 1024, 4, 4])
    """

    def __init__(self, widen_factor: float = 1.0, **kwargs: Any) -> None:
        super().__init__(widen_factor, **kwargs)
        self.conv1: nn.Module = ConvModule(
            self.conv1.in_channels,
            self.conv1.out_channels,
            kernel_size=1,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
        )
        self.maxpool = nn.Identity()

    def init_weights(self) -> None:
        """Initialise by ``init_cfg``; without one keep torch's own initialisation.

        mmpretrain's small values are those of the ImageNet network; the CIFAR
        networks start from torch's.
        """
        super(ShuffleNetV2, self).init_weights()
