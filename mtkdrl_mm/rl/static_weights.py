# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The best weights that are the same for all images."""

import torch
from torch import Tensor

# Steps at most, and nats that may be left to gain.
_MAX_STEPS = 20_000
_TOLERANCE = 1e-6


def best_static_weights(probabilities: Tensor) -> Tensor:
    r"""Find the weights, the same for all images, that make the labels most likely.

    .. math::
        w = \mathrm{argmax}_w \frac{1}{N} \sum_i \log \sum_m w^m p_i^m[y_i]

    The problem is concave. Each step of expectation maximisation,
    :math:`w^m \leftarrow w^m g^m` with :math:`g^m = \mathrm{mean}_i \, p_i^m[y_i]
    / \sum_k w^k p_i^k[y_i]`, raises the likelihood, and :math:`\max_m g^m - 1`
    bounds what is left to gain. It ends where that is below 1e-6 nats.

    Args:
        probabilities (Tensor): p_i^m[y_i], shape (N, M).

    Returns:
        Tensor: w, shape (M,), float32.
    """
    # Images that no teacher explains would have no say, and a ratio of 0 to 0.
    values = probabilities.double().clamp_min(1e-12)
    weights = torch.full_like(values[0], 1 / values.shape[1])
    for _ in range(_MAX_STEPS):
        gains = (values / (values @ weights)[:, None]).mean(dim=0)
        weights = weights * gains
        if float(gains.max()) < 1 + _TOLERANCE:
            break
    return weights.float()
