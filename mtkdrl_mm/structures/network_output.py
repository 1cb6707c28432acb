# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Outputs of one network on a batch."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class NetworkOutput:
    """Outputs of one classifier on a batch of B images.

    Attributes:
        logits (Tensor): Class scores before the softmax, shape (B, C).
        embedding (Tensor): Input of the last linear layer, shape (B, d).
        feature_map (Tensor, optional): Last spatial map of the backbone, shape
            (B, c, h, w); None for backbones without one.
        loss (Tensor, optional): Loss of the network's own head, image by image,
            shape (B,), float32; None where it was not computed.
        logs (dict[str, Any]): What else the head computes with its loss, for
            the log, as its accuracy.
    """

    logits: Tensor
    embedding: Tensor
    feature_map: Tensor | None = None
    loss: Tensor | None = None
    logs: dict[str, Any] = field(default_factory=dict)
