# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Agreement between the predictions of two teachers."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Independently trained networks, also of the same architecture, stay well below these values.
DUPLICATE_KAPPA = 0.9
DUPLICATE_CORRELATION = 0.99
# Where this agreement is expected by chance, kappa is too noisy to be used.
SATURATED_AGREEMENT = 0.98


@dataclass(frozen=True)
class Agreement:
    """Agreement of two teachers on N images.

    Attributes:
        observed (float): Share of images with the same predicted class.
        expected (float): Share that two teachers with these accuracies and
            independent errors would have.
        kappa (float): (observed - expected) / (1 - expected): 0 for
            independent errors, 1 for identical predictions.
        correlation (float): Correlation of the logits over images and classes,
            after subtracting each image's mean.
    """

    observed: float
    expected: float
    kappa: float
    correlation: float

    @property
    def near_duplicate(self) -> bool:
        """Whether the teachers agree far more than their accuracies explain."""
        return self.correlation > DUPLICATE_CORRELATION or (
            self.kappa > DUPLICATE_KAPPA and self.expected < SATURATED_AGREEMENT
        )


def agreement(first: Tensor, second: Tensor, labels: Tensor) -> Agreement:
    """Compute the agreement of two teachers from their logits.

    Args:
        first (Tensor): Logits of the first teacher, shape (N, C).
        second (Tensor): Logits of the second teacher, shape (N, C).
        labels (Tensor): Shape (N,).

    Returns:
        Agreement: Observed and expected agreement, kappa and correlation.
    """
    predicted = first.argmax(dim=1), second.argmax(dim=1)
    observed = float((predicted[0] == predicted[1]).double().mean())
    a, b = (float((classes == labels).double().mean()) for classes in predicted)
    # Errors are taken as uniform over the other classes.
    expected = a * b + (1 - a) * (1 - b) / max(1, first.shape[1] - 1)
    kappa = (observed - expected) / (1 - expected) if expected < 1 else 1.0
    centred = [z.double() - z.double().mean(dim=1, keepdim=True) for z in (first, second)]
    correlation = torch.corrcoef(torch.stack([z.flatten() for z in centred]))[0, 1]
    return Agreement(
        observed=observed,
        expected=expected,
        kappa=kappa,
        correlation=float(correlation.nan_to_num(0.0)),
    )
