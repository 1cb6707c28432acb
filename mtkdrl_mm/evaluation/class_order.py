# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Whether a teacher knows the classes, but in another order."""

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .paired_tests import mcnemar


@dataclass(frozen=True)
class ClassOrder:
    """The order of the classes that suits a teacher best.

    Attributes:
        class_map (list[int]): For every class of the data, the teacher's.
        accuracy (float): On the images that it was not found on, as given.
        mapped_accuracy (float): On the same images, with the map.
        p_value (float): Of McNemar's test between the two.
    """

    class_map: list[int]
    accuracy: float
    mapped_accuracy: float
    p_value: float

    @property
    def other(self) -> bool:
        """Whether another order is clearly better."""
        return self.p_value < 1e-3 and self.mapped_accuracy > self.accuracy + 0.1


def class_order(logits: Tensor, labels: Tensor) -> ClassOrder:
    """Find the order on every second image, and judge it on the others.

    Args:
        logits (Tensor): Shape (N, C), images in random order.
        labels (Tensor): Shape (N,).

    Returns:
        ClassOrder: The result.
    """
    num_classes = logits.shape[1]
    answers = logits.argmax(dim=1)
    pairs = labels[::2] * num_classes + answers[::2]
    counts = torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes).double()
    # Classes that were never seen keep their place if they can.
    counts += 1e-3 * torch.eye(num_classes, dtype=torch.float64)
    _, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    class_map = torch.from_numpy(columns)
    labels, answers = labels[1::2], answers[1::2]
    right, mapped = answers == labels, answers == class_map[labels]
    return ClassOrder(
        class_map.tolist(),
        float(right.double().mean()),
        float(mapped.double().mean()),
        mcnemar(right, mapped),
    )
