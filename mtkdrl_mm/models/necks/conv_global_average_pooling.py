# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A 1x1 convolution before the pooling."""

from collections.abc import Sequence

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmpretrain.models import GlobalAveragePooling
from torch import Tensor

from mtkdrl_mm.registry import MODELS


@MODELS.register_module()
class ConvGlobalAveragePooling(BaseModule):
    """1x1 convolution, normalisation, activation, global average pooling.

    For networks whose last map is widened just before it is pooled, as
    MobileNetV2's. With the widening in the neck, the backbone ends in the
    narrow map, and it is this map that distillation compares.

    Args:
        in_channels (int): Channels of the backbone's last map.
        out_channels (int): Size of the embedding.
        conv_cfg (dict, optional): Convolution layer. Defaults to None.
        norm_cfg (dict, optional): Normalisation layer. Defaults to
            ``dict(type='BN')``.
        act_cfg (dict, optional): Activation layer. Defaults to
            ``dict(type='ReLU')``.
        init_cfg (dict | list[dict], optional): Initialisation. Defaults to
            Kaiming's for the convolution, and ones for the normalisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = dict(type='BN'),  # noqa: B006, the OpenMMLab way
        act_cfg: dict | None = dict(type='ReLU'),  # noqa: B006
        init_cfg: dict | list[dict] | None = [  # noqa: B006
            dict(type='Kaiming', layer=['Conv2d']),
            dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
        ],
    ) -> None:
        super().__init__(init_cfg)
        self.conv = ConvModule(
            in_channels,
            out_channels,
            kernel_size=1,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )
        self.gap = GlobalAveragePooling()

    def forward(self, maps: Tensor | Sequence[Tensor]) -> tuple[Tensor]:
        """Widen and pool the last map.

        Args:
            maps (Tensor | Sequence[Tensor]): The backbone's maps, the last of
                shape (B, in_channels, h, w).

        Returns:
            tuple[Tensor]: The embedding, shape (B, out_channels).
        """
        last = maps if isinstance(maps, Tensor) else maps[-1]
        return (self.gap(self.conv(last)),)
