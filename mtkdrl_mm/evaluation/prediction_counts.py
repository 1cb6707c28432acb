# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""How often a teacher is right, and whether another order of its classes explains its errors."""

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from .class_order import class_order_of_counts, count_predictions

# Counts of pairs of classes are kept up to this number of classes, which takes 32 MiB.
MOST_CLASSES = 2000
# Fewer images per class, on average, cannot show another order.
FEWEST_IMAGES = 2


class PredictionCounts:
    """A teacher's predictions, counted batch by batch.

    Args:
        num_classes (int): C.
        device (torch.device | str): Where the counts are kept. Defaults to 'cpu'.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.evaluation import PredictionCounts
        >>> counts = PredictionCounts(num_classes=3)
        >>> counts.add(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 0]), torch.arange(4))
        >>> counts.accuracy, counts.num_images
        (0.75, 4)
    """

    def __init__(self, num_classes: int, device: torch.device | str = 'cpu') -> None:
        self.num_classes = num_classes
        self._right = torch.zeros(2, dtype=torch.long, device=device)  # right, all
        kept = num_classes if num_classes <= MOST_CLASSES else 0
        self._pairs = torch.zeros(2, kept, kept, dtype=torch.int32, device=device)

    def add(self, labels: Tensor, predicted: Tensor, images: Tensor) -> None:
        """Count a batch of N images.

        Args:
            labels (Tensor): Shape (N,).
            predicted (Tensor): The predicted classes, shape (N,).
            images (Tensor): The images' numbers, shape (N,): an order of the classes
                is fitted on the even ones and judged by the odd ones. Views of one image
                have the same number.
        """
        device = self._right.device
        labels, predicted = labels.to(device), predicted.to(device)
        self._right[0] += labels.eq(predicted).sum()
        self._right[1] += len(labels)
        if len(self._pairs[0]):
            count_predictions(self._pairs, labels, predicted, images.to(device))

    def all_reduce(self) -> None:
        """Add the counts of all processes."""
        all_reduce(self._right)
        all_reduce(self._pairs)

    @property
    def num_images(self) -> int:
        """Number of counted images."""
        return int(self._right[1])

    @property
    def accuracy(self) -> float:
        """Share of images whose label is predicted, from 0 to 1; NaN without images."""
        right, total = self._right.tolist()
        return right / total if total else float('nan')

    def warning(self, name: str, minimum: float) -> str | None:
        """What is wrong with the teacher, by its predictions.

        Args:
            name (str): Its name.
            minimum (float): Accuracy in percent below which something must be wrong.

        Returns:
            str | None: A warning with what to do; None if nothing is found.
        """
        if len(self._pairs[0]) and self.num_images >= FEWEST_IMAGES * self.num_classes:
            order = class_order_of_counts(self._pairs)
            if order.clearly_better:
                return (
                    order.finding(name, 'the best one')
                    + ' tools/analysis_tools/check_teachers.py prints its `class_map`.'
                )
        if 100 * self.accuracy < minimum:
            return (
                f'Teacher "{name}" has an accuracy of only {100 * self.accuracy:.1f} %, below the '
                f'minimum of {minimum:.1f} %. Check its checkpoint, whether its mean, std, to_rgb '
                'and input_size are those of its training, and whether its classes have the '
                "data's order; tools/analysis_tools/check_teachers.py tries alternatives."
            )
        return None
