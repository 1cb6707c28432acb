# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Wide residual network WRN-d-k, for images of 32x32 pixels."""

from collections.abc import Sequence

from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.utils import InputError, check_number

from .cifar_resnet import blocks_per_stage

NUM_STAGES = 3


class PreActBlock(BaseModule):
    """Two 3x3 convolutions, each after normalisation and ReLU.

    Where the shape changes, the shortcut is a 1x1 convolution of what the first
    convolution sees too; otherwise it is the input itself.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        stride (int): Stride of the first convolution. Defaults to 1.
        conv_cfg (dict, optional): Convolution layer. Defaults to None.
        norm_cfg (dict): Normalisation layer. Defaults to ``dict(type='BN')``.
        init_cfg (dict, optional): Initialisation. Defaults to None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        conv_cfg: dict | None = None,
        norm_cfg: dict = dict(type='BN'),  # noqa: B006, the OpenMMLab way
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.norm1 = build_norm_layer(norm_cfg, in_channels)[1]
        self.conv1 = build_conv_layer(
            conv_cfg, in_channels, out_channels, 3, stride=stride, padding=1, bias=False
        )
        self.norm2 = build_norm_layer(norm_cfg, out_channels)[1]
        self.conv2 = build_conv_layer(
            conv_cfg, out_channels, out_channels, 3, padding=1, bias=False
        )
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = build_conv_layer(
                conv_cfg, in_channels, out_channels, 1, stride=stride, bias=False
            )

    def forward(self, x: Tensor) -> Tensor:
        """From (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        activated = self.relu(self.norm1(x))
        identity = x if self.shortcut is None else self.shortcut(activated)
        out = self.relu(self.norm2(self.conv1(activated)))
        return self.conv2(out) + identity


@MODELS.register_module()
class CIFARWideResNet(BaseBackbone):
    """WRN-d-k: a ResNet of pre-activation blocks, k times as wide.

    Source: arXiv:1605.07146, without dropout. The map of the last stage has
    passed the closing normalisation and ReLU, the maps before it have not.

    Args:
        depth (int): d = 6n + 4 with n >= 1.
        widen_factor (float): k > 0. Defaults to 1.
        in_channels (int): Channels of the images. Defaults to 3.
        base_channels (int): Channels of the first convolution, and of the first
            stage before they are multiplied by k. Defaults to 16.
        strides (Sequence[int]): Stride of every stage's first block. Defaults
            to (1, 2, 2).
        out_indices (Sequence[int]): Stages whose maps are returned, 0 to 2.
            Defaults to (2,).
        frozen_stages (int): Number of stages that are not trained; 0 is the
            first convolution alone, and -1 nothing. Defaults to -1.
        conv_cfg (dict, optional): Convolution layers. Defaults to None.
        norm_cfg (dict): Normalisation layers. Defaults to
            ``dict(type='BN', requires_grad=True)``.
        norm_eval (bool): Whether BatchNorm keeps its statistics in training.
            Defaults to False.
        init_cfg (dict | list[dict], optional): Initialisation. Defaults to
            Kaiming's for convolutions, and ones for normalisations.

    Raises:
        InputError: If a number is out of range.
    """

    def __init__(
        self,
        depth: int,
        widen_factor: float = 1,
        in_channels: int = 3,
        base_channels: int = 16,
        strides: Sequence[int] = (1, 2, 2),
        out_indices: Sequence[int] = (2,),
        frozen_stages: int = -1,
        conv_cfg: dict | None = None,
        norm_cfg: dict = dict(type='BN', requires_grad=True),  # noqa: B006, the OpenMMLab way
        norm_eval: bool = False,
        init_cfg: dict | list[dict] | None = [  # noqa: B006
            dict(type='Kaiming', layer=['Conv2d']),
            dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
        ],
    ) -> None:
        super().__init__(init_cfg)
        num_blocks = blocks_per_stage(depth, 4, 'WRN')
        check_number('widen_factor', widen_factor, exclusive=True)
        for index in out_indices:
            if index not in range(NUM_STAGES):
                raise InputError(f'`out_indices` must be from 0 to 2, but one is {index!r}.')
        if frozen_stages not in range(-1, NUM_STAGES + 1):
            raise InputError(f'`frozen_stages` must be from -1 to 3, but is {frozen_stages!r}.')
        if len(strides) != NUM_STAGES:
            raise InputError(f'`strides` must be {NUM_STAGES} numbers, but is {strides!r}.')
        self.depth = depth
        self.widen_factor = widen_factor
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

        self.conv1 = build_conv_layer(
            conv_cfg, in_channels, base_channels, 3, padding=1, bias=False
        )
        channels = base_channels
        for stage, first_stride in enumerate(strides):
            width = int(base_channels * widen_factor) * 2**stage
            blocks = []
            for stride in (first_stride, *[1] * (num_blocks - 1)):
                blocks.append(PreActBlock(channels, width, stride, conv_cfg, norm_cfg))
                channels = width
            self.add_module(f'layer{stage + 1}', nn.Sequential(*blocks))
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.relu = nn.ReLU(inplace=True)
        self.feat_dim = channels
        self._freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run the network.

        Args:
            x (Tensor): Images, shape (B, in_channels, H, W).

        Returns:
            tuple[Tensor, ...]: The maps of ``out_indices``; the last stage's
            has the shape (B, 4 * k * base_channels, H / 4, W / 4).
        """
        x = self.conv1(x)
        maps = []
        for stage in range(NUM_STAGES):
            x = getattr(self, f'layer{stage + 1}')(x)
            if stage == NUM_STAGES - 1:
                x = self.relu(self.norm(x))
            if stage in self.out_indices:
                maps.append(x)
        return tuple(maps)

    def train(self, mode: bool = True) -> 'CIFARWideResNet':
        """Set the mode, but leave frozen stages, and with ``norm_eval`` BatchNorm, in eval."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [self.conv1]
        frozen += [getattr(self, f'layer{stage + 1}') for stage in range(self.frozen_stages)]
        if self.frozen_stages == NUM_STAGES:
            frozen.append(self.norm)
        for module in frozen:
            module.eval()
            module.requires_grad_(False)
