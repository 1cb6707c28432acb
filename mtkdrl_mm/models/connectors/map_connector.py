# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Connector between feature maps."""

from functools import partial

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import NetworkOutput, Projection
from mtkdrl_mm.structures.projection import LinearStem

from .base import Connector

# At most so many positions are normalised in channels_last on a CPU: for 32 images with 2,048
# channels of 2x2 positions, the connector takes 0.8 of the time, of 3x3 0.8, of 4x4 1.8.
_FEW_POSITIONS = 9


@MODELS.register_module()
class MapConnector(Connector):
    """Resize, 1x1 convolution, normalisation, ReLU.

    A larger map is average-pooled to the teacher's size, a smaller one is
    interpolated bilinearly. The size is taken from the teacher's map of the
    same step, so that inputs of any resolution work.

    Args:
        in_channels (int): Channels c of the student's map.
        out_channels (int): Channels c_m of the teacher's map.
        norm_cfg (dict, optional): Normalisation layer. Defaults to
            ``dict(type='BN')``.
        act_cfg (dict, optional): Activation layer. Defaults to
            ``dict(type='ReLU')``, since the last maps of the usual teachers are
            outputs of a ReLU.
        init_cfg (dict, optional): Initialisation. Defaults to None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm_cfg: dict | None = dict(type='BN'),  # noqa: B006, the OpenMMLab way
        act_cfg: dict | None = dict(type='ReLU'),  # noqa: B006
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        # Not in place: without a normalisation, the activation would overwrite the
        # convolution's output, of which `LinearStem` needs the gradient.
        self.projection = ConvModule(
            in_channels,
            out_channels,
            kernel_size=1,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            inplace=False,
        )
        # It has initialised itself. `init_weights` would do it again, after `init_cfg`.
        self.projection.is_init = True

    def forward(self, student: NetworkOutput, teacher: NetworkOutput) -> Projection:
        """Project the student's map; both results have shape (B, c_m, h_m, w_m)."""
        source, target = student.feature_map, teacher.feature_map
        assert source is not None and target is not None
        height, width = target.shape[-2:]
        layers = self.projection
        convolved = projected = layers.conv(resize_map(source, (height, width)))
        if projected.device.type == 'cpu' and height * width <= _FEW_POSITIONS:
            projected = projected.contiguous(memory_format=torch.channels_last)
        if layers.with_norm:
            projected = layers.norm(projected)
        if layers.with_activation:
            projected = layers.activate(projected)
        mean_vjp = partial(self._mean_vjp, size=source.shape[-2:])
        return Projection(projected, target, LinearStem(source, convolved, mean_vjp))

    def _mean_vjp(self, gradient: Tensor, size: tuple[int, int]) -> Tensor:
        """Vector-Jacobian product of resizing and convolution, for one image.

        Args:
            gradient (Tensor): Of one image after both, shape (c_m, h_m, w_m).
            size (tuple[int, int]): The student's (h, w).

        Returns:
            Tensor: Of one image before both, shape (c, h, w).
        """
        weight = self.projection.conv.weight.detach().to(gradient)
        unmixed = torch.einsum('oc,ohw->chw', weight[..., 0, 0], gradient)[None]
        with torch.enable_grad():
            source = unmixed.new_zeros(*unmixed.shape[:2], *size, requires_grad=True)
            resized = resize_map(source, (unmixed.shape[-2], unmixed.shape[-1]))
        return torch.autograd.grad(resized, source, unmixed)[0][0]


def resize_map(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool a map down, or interpolate it up, to a size (h, w)."""
    height, width = feature_map.shape[-2:]
    if (height, width) == size:
        return feature_map
    if size[0] <= height and size[1] <= width:
        return F.adaptive_avg_pool2d(feature_map, size)
    return F.interpolate(feature_map, size=size, mode='bilinear', align_corners=False)
