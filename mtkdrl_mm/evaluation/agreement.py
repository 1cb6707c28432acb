# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""How much of one teacher is in another."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Networks that were trained apart, of one family or of several, stay well below.
DUPLICATE_KAPPA = 0.9
DUPLICATE_CORRELATION = 0.99


@dataclass(frozen=True)
class Agreement:
    """Two teachers, compared on N images.

    Attributes:
        observed (float): Share of images with the same answer.
        expected (float): The same of two teachers with these accuracies whose
            mistakes have nothing to do with each other.
        kappa (float): (observed - expected) / (1 - expected): 0 for unrelated
            mistakes, 1 for the same answers everywhere.
        correlation (float): Correlation of the logits over images and classes,
            each image's mean taken away.
    """

    observed: float
    expected: float
    kappa: float
    correlation: float

    @property
    def near_duplicate(self) -> bool:
        """Whether the two say the same, far beyond what their accuracies explain."""
        return self.correlation > DUPLICATE_CORRELATION or (
            # Two that are almost always right agree almost always.
            self.kappa > DUPLICATE_KAPPA and self.expected < 0.98
        )


def agreement(first: Tensor, second: Tensor, labels: Tensor) -> Agreement:
    """Compare two teachers.

    Args:
        first (Tensor): Logits of one, shape (N, C).
        second (Tensor): Logits of the other.
        labels (Tensor): Shape (N,).

    Returns:
        Agreement: The comparison.
    """
    answers = first.argmax(dim=1), second.argmax(dim=1)
    observed = float((answers[0] == answers[1]).double().mean())
    a, b = (float((answer == labels).double().mean()) for answer in answers)
    # Mistakes spread over the other classes.
    expected = a * b + (1 - a) * (1 - b) / max(1, first.shape[1] - 1)
    kappa = (observed - expected) / (1 - expected) if expected < 1 else 1.0
    centred = [z.double() - z.double().mean(dim=1, keepdim=True) for z in (first, second)]
    correlation = torch.corrcoef(torch.stack([z.flatten() for z in centred]))[0, 1]
    return Agreement(observed, expected, kappa, float(correlation.nan_to_num(0.0)))
