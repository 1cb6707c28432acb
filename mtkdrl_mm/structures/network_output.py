# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What one network says of a batch."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class NetworkOutput:
    """Outputs of one classifier on a batch of B images.

    Attributes:
        logits (Tensor): Class scores before the softmax, shape (B, C).
        embedding (Tensor): Input of the last linear layer, shape (B, d).
        feature_map (Tensor, optional): Last spatial map of the backbone, shape
            (B, c, h, w); None for backbones without one.
    """

    logits: Tensor
    embedding: Tensor
    feature_map: Tensor | None = None
