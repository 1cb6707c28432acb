# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""scikit-learn's handwritten digits, in the one split that all data sets of them have."""

from typing import NamedTuple

import numpy as np

from .optional_packages import import_optional

# Number of training images, of 1,797.
_TRAIN = 350


class Digits(NamedTuple):
    """The digits.

    Attributes:
        images (np.ndarray): Grey values from 0 to 16, float64, shape (1797, 8, 8).
        labels (np.ndarray): Shape (1797,).
        train (np.ndarray): Indices of the 350 training images, as many of each
            digit as there are in all.
        val (np.ndarray): Indices of the other 1,447, for testing.
    """

    images: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    val: np.ndarray


def load_split_digits() -> Digits:
    """Load and split the digits.

    Raises:
        InputError: If scikit-learn is not installed.
    """
    datasets = import_optional('sklearn.datasets', 'The data set of digits')
    from sklearn.model_selection import train_test_split

    data = datasets.load_digits()
    indices = np.arange(len(data.target))
    train, val = train_test_split(indices, train_size=_TRAIN, stratify=data.target, random_state=0)
    return Digits(data.images, data.target, train, val)
