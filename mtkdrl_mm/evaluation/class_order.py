# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Detection of teachers whose classes are in another order than the data's."""

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .paired_tests import mcnemar

# Another order is clearly better at this level and with this gain in accuracy.
SIGNIFICANCE = 1e-3
SMALLEST_GAIN = 0.1
# Prior weight of the identity, for classes without images.
_IDENTITY_PRIOR = 1e-3


@dataclass(frozen=True)
class ClassOrder:
    """The permutation of the classes under which a teacher is most accurate.

    Attributes:
        class_map (list[int]): For every class of the data, the index of the
            teacher's class.
        accuracy (float): Accuracy without the map, on the images that were not
            used to fit it.
        mapped_accuracy (float): Accuracy with the map on the same images.
        p_value (float): p-value of McNemar's test between the two.
    """

    class_map: list[int]
    accuracy: float
    mapped_accuracy: float
    p_value: float

    @property
    def clearly_better(self) -> bool:
        """Whether the accuracy with the map is significantly higher."""
        gain = self.mapped_accuracy - self.accuracy
        return self.p_value < SIGNIFICANCE and gain > SMALLEST_GAIN


def class_order(logits: Tensor, labels: Tensor) -> ClassOrder:
    """Fit the class order on every second image and evaluate it on the others.

    Args:
        logits (Tensor): Shape (N, C), images in random order.
        labels (Tensor): Shape (N,).

    Returns:
        ClassOrder: The order and its accuracies.
    """
    num_classes = logits.shape[1]
    predicted = logits.argmax(dim=1)
    pairs = labels[::2] * num_classes + predicted[::2]
    counts = torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes).double()
    counts += _IDENTITY_PRIOR * torch.eye(num_classes, dtype=torch.float64)
    _, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    class_map = torch.from_numpy(columns)
    labels, predicted = labels[1::2], predicted[1::2]
    correct, mapped_correct = predicted == labels, predicted == class_map[labels]
    return ClassOrder(
        class_map=class_map.tolist(),
        accuracy=float(correct.double().mean()),
        mapped_accuracy=float(mapped_correct.double().mean()),
        p_value=mcnemar(correct, mapped_correct),
    )
