# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Detection of teachers whose classes are in another order than the data's."""

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .paired_tests import mcnemar_counts

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

    def finding(self, name: str, order: str) -> str:
        """Say what was found, in a sentence.

        Args:
            name (str): The teacher's name.
            order (str): What to call the order, such as ``class_map=[1, 0]``.
        """
        return (
            f'Teacher "{name}" seems to have the classes in another order: with {order}, fitted on '
            'one half of these images, its accuracy on the other half is '
            f'{100 * self.mapped_accuracy:.1f} % instead of {100 * self.accuracy:.1f} %.'
        )


def class_order(logits: Tensor, labels: Tensor) -> ClassOrder:
    """Fit the class order on every second image and evaluate it on the others.

    Args:
        logits (Tensor): Shape (N, C), images in random order.
        labels (Tensor): Shape (N,).

    Returns:
        ClassOrder: The order and its accuracies.
    """
    num_classes = logits.shape[1]
    counts = torch.zeros(2, num_classes, num_classes, dtype=torch.int32)
    count_predictions(counts, labels, logits.argmax(dim=1), torch.arange(len(labels)))
    return class_order_of_counts(counts)


def count_predictions(counts: Tensor, labels: Tensor, predicted: Tensor, images: Tensor) -> None:
    """Count the images of every label and prediction, in two halves.

    Args:
        counts (Tensor): Numbers of images by half, label and prediction, shape
            (2, C, C), int32; changed in place.
        labels (Tensor): Shape (N,).
        predicted (Tensor): The predicted classes, shape (N,).
        images (Tensor): The images' numbers, of which the even ones are one half,
            shape (N,).
    """
    pairs = images.remainder(2).mul(len(counts[0])).add(labels)
    places = pairs.mul(len(counts[0])).add(predicted)
    # The cost is that of the images, and not that of the pairs of classes.
    counts.view(-1).index_add_(0, places, torch.ones_like(places, dtype=counts.dtype))


def class_order_of_counts(counts: Tensor) -> ClassOrder:
    """Fit the class order on one half of the images and evaluate it on the other.

    Args:
        counts (Tensor): See :func:`count_predictions`, shape (2, C, C).

    Returns:
        ClassOrder: The order and its accuracies.
    """
    fitted, judged = counts.cpu()
    prior = _IDENTITY_PRIOR * torch.eye(len(fitted), dtype=torch.float64)
    classes, columns = linear_sum_assignment((fitted.double() + prior).numpy(), maximize=True)
    mapped = judged[torch.from_numpy(classes), torch.from_numpy(columns)]
    correct, total = judged.diagonal(), int(judged.sum())
    moved = torch.from_numpy(columns != classes)
    return ClassOrder(
        class_map=columns.tolist(),
        accuracy=float(correct.sum() / total),
        mapped_accuracy=float(mapped.sum() / total),
        p_value=mcnemar_counts(int(mapped[moved].sum()), int(correct[moved].sum())),
    )
