# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Whether one classifier is better than another on the same images."""

from scipy.stats import binomtest, ttest_1samp
from torch import Tensor


def mcnemar(first: Tensor, second: Tensor) -> float:
    """Exact one-sided McNemar test of the second's accuracy against the first's.

    Args:
        first (Tensor): Which images the first gets right, shape (N,), bool.
        second (Tensor): Of the second.

    Returns:
        float: Probability of a gain as large as this if both are equally good;
        only the images on which they differ count.
    """
    gained = int((second & ~first).sum())
    lost = int((first & ~second).sum())
    if gained + lost == 0:
        return 1.0
    return float(binomtest(gained, gained + lost, alternative='greater').pvalue)


def paired_gain(first: Tensor, second: Tensor) -> float:
    """One-sided paired t-test that the second's values are higher than the first's.

    Args:
        first (Tensor): One number per image, shape (N,).
        second (Tensor): Of the second.

    Returns:
        float: The p-value; 1 where nothing differs.
    """
    difference = second - first
    if len(difference) < 2 or float(difference.std()) == 0:
        return 1.0
    return float(ttest_1samp(difference.numpy(), 0, alternative='greater').pvalue)
