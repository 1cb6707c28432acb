# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Calibration error and log-likelihood of a classifier."""

import math
from typing import NamedTuple

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor


def expected_calibration_error(logits: Tensor, labels: Tensor, num_bins: int = 15) -> float:
    r"""Compute the expected calibration error (ECE).

    .. math::
        \sum_b \frac{n_b}{N} | \mathrm{acc}_b - \mathrm{conf}_b |

    Source: Guo et al., arXiv:1706.04599, equation 3.

    Args:
        logits (Tensor): Shape (N, C).
        labels (Tensor): Shape (N,).
        num_bins (int): Number of confidence bins of equal width. Defaults to 15.

    Returns:
        float: Between 0 and 1.
    """
    bins = reliability_bins(logits, labels, num_bins)
    gaps = bins.count * (bins.accuracy - bins.confidence)
    return float(gaps.abs().sum() / len(labels))


class ReliabilityBins(NamedTuple):
    """Images of a classifier, grouped by confidence into bins of equal width.

    Attributes:
        confidence (Tensor): Mean probability of the predicted class, shape
            (bins,), float64; 0 where a bin is empty.
        accuracy (Tensor): Share of right predictions, likewise.
        count (Tensor): Number of images, likewise.
    """

    confidence: Tensor
    accuracy: Tensor
    count: Tensor


def reliability_bins(logits: Tensor, labels: Tensor, num_bins: int = 15) -> ReliabilityBins:
    """Group images by confidence, for a reliability diagram.

    Args:
        logits (Tensor): Shape (N, C).
        labels (Tensor): Shape (N,).
        num_bins (int): Number of bins. Defaults to 15.

    Returns:
        ReliabilityBins: Confidence, accuracy and number of images per bin.
    """
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    # A confidence of exactly 1 belongs to the last bin.
    bins = (confidence * num_bins).long().clamp(max=num_bins - 1)
    sums = torch.zeros(3, num_bins, dtype=torch.float64)
    right = (predicted == labels).double()
    sums.index_add_(1, bins, torch.stack([confidence, right, torch.ones_like(right)]))
    count = sums[2]
    return ReliabilityBins(sums[0] / count.clamp(min=1), sums[1] / count.clamp(min=1), count)


def log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the log probability of each image's label, shape (N,), float64."""
    log_probs = logits.double().log_softmax(dim=1)
    return log_probs.gather(1, labels[:, None])[:, 0]


def fitted_temperature(logits: Tensor, labels: Tensor) -> float:
    r"""Find the temperature at which a classifier's probabilities fit best.

    .. math::
        \tau = \mathrm{argmax}_\tau \sum_i \log \mathrm{softmax}(z_i / \tau)_{y_i}

    Above 1 for a classifier that is surer than it is right. Source: Guo et al.,
    arXiv:1706.04599, section 4.2.

    Args:
        logits (Tensor): Shape (N, C).
        labels (Tensor): Shape (N,).

    Returns:
        float: tau, between e^-5 and e^7.
    """

    def loss(log_temperature: float) -> float:
        scaled = logits.double() * math.exp(-log_temperature)
        return -float(log_likelihood(scaled, labels).mean())

    best = minimize_scalar(loss, bounds=(-5, 7), method='bounded', options=dict(xatol=1e-3))
    return math.exp(best.x)


def calibrated_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the log probability of each image's label after temperature scaling.

    The temperature that maximises the mean is used. Without it, an
    over-confident classifier would gain from everything that makes it less
    confident, such as inputs with too little contrast.

    Args:
        logits (Tensor): Shape (N, C).
        labels (Tensor): Shape (N,).

    Returns:
        Tensor: Shape (N,), float64.
    """
    return log_likelihood(logits.double() / fitted_temperature(logits, labels), labels)
