# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Significance tests for two classifiers on the same images."""

import warnings

from scipy.stats import binomtest, ttest_rel
from torch import Tensor


def mcnemar(first: Tensor, second: Tensor) -> float:
    """Exact one-sided McNemar test of the second's accuracy against the first's.

    Args:
        first (Tensor): Whether the first classifier is correct on each image,
            shape (N,), bool.
        second (Tensor): The same for the second classifier, shape (N,), bool.

    Returns:
        float: The p-value: the probability of at least this gain if both are
        equally good. Only images on which they differ count.
    """
    return mcnemar_counts(int((second & ~first).sum()), int((first & ~second).sum()))


def mcnemar_counts(gained: int, lost: int) -> float:
    """Exact one-sided McNemar test, see :func:`mcnemar`.

    Args:
        gained (int): Number of images on which only the second classifier is correct.
        lost (int): Number of images on which only the first one is.

    Returns:
        float: The p-value.
    """
    if gained + lost == 0:
        return 1.0
    return float(binomtest(gained, gained + lost, alternative='greater').pvalue)


def paired_gain(first: Tensor, second: Tensor) -> float:
    """One-sided paired t-test that the second's values are higher than the first's.

    Args:
        first (Tensor): Values of the first classifier per image, shape (N,).
        second (Tensor): Values of the second classifier, shape (N,).

    Returns:
        float: The p-value; 1 if nothing differs, and of a single image. If all
        images differ by the same, it is the limit: 0 for a gain, 1 for a loss.
    """
    if len(first) < 2 or first.equal(second):
        return 1.0
    with warnings.catch_warnings():
        # That the differences hardly vary, which is no reason to doubt their sign.
        warnings.filterwarnings('ignore', 'Precision loss', RuntimeWarning)
        return float(ttest_rel(second.numpy(), first.numpy(), alternative='greater').pvalue)
