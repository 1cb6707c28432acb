# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Feature maps of transformers, made of their patch tokens."""

from collections.abc import Sequence
from typing import Any

from mmpretrain.models import VisionTransformer
from torch import Tensor, nn


def tokens_to_map(tokens: Tensor, image_size: Sequence[int], num_extra: int) -> Tensor:
    """Arrange patch tokens as a feature map.

    Args:
        tokens (Tensor): Shape (B, num_extra + h * w, c), patches row by row.
        image_size (Sequence[int]): Height and width of the image, whose ratio is
            that of h and w.
        num_extra (int): Number of tokens before the patches (class token,
            distillation token).

    Returns:
        Tensor: The map, shape (B, c, h, w).
    """
    count = tokens.shape[1] - num_extra
    grid = token_grid(count, image_size)
    assert grid is not None, f'{count} patches of an image of {tuple(image_size)}'
    return tokens[:, num_extra:].transpose(1, 2).unflatten(2, grid)


def token_grid(count: int, image_size: Sequence[int]) -> tuple[int, int] | None:
    """Find the height and width of a map of patches.

    Args:
        count (int): Number of patches, h * w.
        image_size (Sequence[int]): Height and width of the image, whose ratio is
            that of h and w.

    Returns:
        tuple[int, int] | None: h and w; None if there are no such numbers.
    """
    height = round((max(count, 0) * image_size[0] / image_size[1]) ** 0.5)
    width = count // height if height else 0
    return (height, width) if height and height * width == count else None


def has_token_map(backbone: nn.Module) -> bool:
    """Whether a backbone is a transformer whose patch tokens can form a map."""
    return isinstance(backbone, VisionTransformer) or getattr(backbone, 'gives_tokens', False)


def run_with_token_map(backbone: VisionTransformer, inputs: Tensor) -> tuple[Any, Tensor]:
    """Run mmpretrain's ``VisionTransformer`` once; return its output and its patch tokens.

    A plain call returns only one of them, depending on ``out_type``.

    Args:
        backbone (VisionTransformer): The network, with any ``out_type``.
        inputs (Tensor): Shape (B, 3, H, W).

    Returns:
        tuple[tuple, Tensor]: The output of a plain call, and the patch tokens
        of the last layer as a map of shape (B, c, h, w).
    """
    out_type, backbone.out_type = backbone.out_type, 'raw'
    try:
        stages = backbone(inputs)
    finally:
        backbone.out_type = out_type
    maps = [tokens_to_map(stage, inputs.shape[-2:], backbone.num_extra_tokens) for stage in stages]
    size = maps[-1].shape[-2:]
    return tuple(backbone._format_output(stage, size) for stage in stages), maps[-1]
