# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""How well a classifier's confidence fits its accuracy."""

import math

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor


def expected_calibration_error(logits: Tensor, labels: Tensor, num_bins: int = 15) -> float:
    r"""Mean distance between confidence and accuracy, over bins of confidence.

    .. math::
        \sum_b \frac{n_b}{N} | \mathrm{acc}_b - \mathrm{conf}_b |

    Source: Guo et al., arXiv:1706.04599, equation 3.

    Args:
        logits (Tensor): Shape (N, C).
        labels (Tensor): Shape (N,).
        num_bins (int): Bins of equal width. Defaults to 15.

    Returns:
        float: Between 0 and 1.
    """
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    # A confidence of exactly 1 belongs to the last bin.
    bins = (confidence * num_bins).long().clamp(max=num_bins - 1)
    gap = torch.zeros(num_bins, dtype=torch.float64)
    gap.index_add_(0, bins, (predicted == labels).double() - confidence)
    return float(gap.abs().sum() / len(labels))


def log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Log probability of each image's label, shape (N,), float64."""
    log_probs = logits.double().log_softmax(dim=1)
    return log_probs.gather(1, labels[:, None])[:, 0]


def calibrated_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Log probability of each image's label at the temperature that fits best.

    Over-confident classifiers gain from whatever makes them less confident,
    also from inputs of too little contrast. That gain is taken away here.

    Args:
        logits (Tensor): Shape (N, C).
        labels (Tensor): Shape (N,).

    Returns:
        Tensor: Shape (N,), float64.
    """

    def loss(log_temperature: float) -> float:
        scaled = logits.double() * math.exp(-log_temperature)
        return -float(log_likelihood(scaled, labels).mean())

    best = minimize_scalar(loss, bounds=(-5, 7), method='bounded', options=dict(xatol=1e-3))
    return log_likelihood(logits.double() * math.exp(-best.x), labels)
