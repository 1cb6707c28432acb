# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Transformers' patch tokens as a map."""

from collections.abc import Sequence
from typing import Any

from mmpretrain.models import VisionTransformer
from torch import Tensor, nn


def tokens_to_map(tokens: Tensor, image_size: Sequence[int], num_extra: int) -> Tensor:
    """Lay patch tokens out as they lie in the image.

    Args:
        tokens (Tensor): Shape (B, num_extra + h * w, c), patches row by row.
        image_size (Sequence[int]): Height and width of the image, which give
            the ratio of h and w.
        num_extra (int): Tokens before the patches (class, distillation).

    Returns:
        Tensor: Shape (B, c, h, w).
    """
    count = tokens.shape[1] - num_extra
    height = round((count * image_size[0] / image_size[1]) ** 0.5)
    width = count // height
    assert height * width == count, f'{count} patches of an image of {tuple(image_size)}'
    return tokens[:, num_extra:].transpose(1, 2).unflatten(2, (height, width))


def has_token_map(backbone: nn.Module) -> bool:
    """Whether a backbone is a transformer whose patch tokens can be had as a map."""
    return isinstance(backbone, VisionTransformer) or getattr(backbone, 'gives_tokens', False)


def run_with_token_map(backbone: VisionTransformer, inputs: Tensor) -> tuple[Any, Tensor]:
    """Run mmpretrain's ``VisionTransformer`` once for its output and its patch tokens.

    It gives one or the other, as its ``out_type`` says.

    Args:
        backbone (VisionTransformer): The network, of any ``out_type``.
        inputs (Tensor): Shape (B, 3, H, W).

    Returns:
        tuple[tuple, Tensor]: What the backbone returns, and its last layer's
        patch tokens, shape (B, c, h, w).
    """
    out_type, backbone.out_type = backbone.out_type, 'raw'
    try:
        stages = backbone(inputs)
    finally:
        backbone.out_type = out_type
    maps = [tokens_to_map(stage, inputs.shape[-2:], backbone.num_extra_tokens) for stage in stages]
    size = maps[-1].shape[-2:]
    return tuple(backbone._format_output(stage, size) for stage in stages), maps[-1]
