# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""RegNetX and RegNetY, for images of 32x32 pixels."""

from collections.abc import Sequence
from typing import Any

from mmpretrain.models import RegNet, ResNet_CIFAR
from mmpretrain.models.backbones.resnext import Bottleneck
from mmpretrain.models.utils import SELayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.utils import InputError, check_number, near_matches


class SEBottleneck(Bottleneck):
    """RegNetY's block: squeeze and excitation after the 3x3 convolution.

    mmpretrain's block of SE-ResNeXt has it at the end of the block instead.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        se_ratio (float): Squeezed channels, as a part of the block's input
            channels.
        **kwargs: As of mmpretrain's ResNeXt ``Bottleneck``.
    """

    def __init__(self, in_channels: int, out_channels: int, se_ratio: float, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, **kwargs)
        self.se_layer = SELayer(
            self.mid_channels,
            squeeze_channels=max(1, round(in_channels * se_ratio)),
            conv_cfg=self.conv_cfg,
        )

    def forward(self, x: Tensor) -> Tensor:
        """From (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        if self.with_cp and x.requires_grad:
            return self.relu(checkpoint(self._sum, x, use_reentrant=False))
        return self.relu(self._sum(x))

    def _sum(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.relu(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(self.se_layer(out)))
        identity = x if self.downsample is None else self.downsample(x)
        return self.drop_path(out) + identity


@MODELS.register_module()
class CIFARRegNet(RegNet):
    """RegNetX or RegNetY with a 3x3 stem, and a stride of 4 in all.

    Widths and depths are those for ImageNet (arXiv:2003.13678). The stem is a
    3x3 convolution of stride 1 with 64 channels, and the first two stages keep
    the resolution. As in the CIFAR experiments that this network is known from,
    'regnety_400mf' has RegNetX-400MF's widths and depths, with squeeze and
    excitation.

    Args:
        arch (str | dict): 'regnetx_200mf', 'regnetx_400mf', 'regnety_400mf', or
            another of mmpretrain's ``RegNet``; or a dict as there, with
            ``se_ratio`` for a RegNetY.
        stem_channels (int): Channels of the stem. Defaults to 64.
        strides (Sequence[int]): Stride of every stage's first block. Defaults
            to (1, 1, 2, 2).
        zero_init_residual (bool): Whether the last normalisation of every block
            starts from zero. Defaults to False, as published.
        **kwargs: The other arguments of mmpretrain's ``RegNet``, such as
            ``out_indices``, ``frozen_stages``, ``norm_eval`` and ``norm_cfg``.

    Raises:
        InputError: If ``arch`` is unusable, or its ``se_ratio`` is negative.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.models import CIFARRegNet
        >>> backbone = CIFARRegNet('regnety_400mf', out_indices=(0, 1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.zeros(1, 3, 32, 32))]
        [(1, 32, 32, 32), (1, 64, 32, 32), (1, 160, 16, 16), (1, 384, 8, 8)]
    """

    arch_settings: dict[str, dict[str, Any]] = {
        **RegNet.arch_settings,
        'regnetx_200mf': dict(w0=24, wa=36.44, wm=2.49, group_w=8, depth=13, bot_mul=1.0),
        'regnety_400mf': dict(RegNet.arch_settings['regnetx_400mf'], se_ratio=0.25),
    }

    def __init__(
        self,
        arch: str | dict[str, Any],
        stem_channels: int = 64,
        strides: Sequence[int] = (1, 1, 2, 2),
        zero_init_residual: bool = False,
        **kwargs: Any,
    ) -> None:
        settings = self.arch_settings.get(arch) if isinstance(arch, str) else arch
        if settings is None:
            known = near_matches(str(arch), self.arch_settings)
            raise InputError(f'Unknown `arch` "{arch}" of a RegNet. {known}')
        if not isinstance(settings, dict):
            raise InputError(f'`arch` of a RegNet must be a name or a dict, but is {arch!r}.')
        # The parent makes the blocks while it is initialised.
        self.se_ratio = check_number('se_ratio', settings.get('se_ratio', 0.0))
        super().__init__(
            settings,
            stem_channels=stem_channels,
            strides=strides,
            zero_init_residual=zero_init_residual,
            **kwargs,
        )

    _make_stem_layer = ResNet_CIFAR._make_stem_layer

    def make_res_layer(self, block: type[nn.Module], **kwargs: Any) -> nn.Module:
        """A stage, of blocks with squeeze and excitation in a RegNetY."""
        if self.se_ratio > 0:
            return super().make_res_layer(block=SEBottleneck, se_ratio=self.se_ratio, **kwargs)
        return super().make_res_layer(block=block, **kwargs)
