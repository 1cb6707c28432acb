# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Significance tests for two classifiers on the same images."""

from scipy.stats import binomtest, ttest_1samp
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
    gained = int((second & ~first).sum())
    lost = int((first & ~second).sum())
    if gained + lost == 0:
        return 1.0
    return float(binomtest(gained, gained + lost, alternative='greater').pvalue)


def paired_gain(first: Tensor, second: Tensor) -> float:
    """One-sided paired t-test that the second's values are higher than the first's.

    Args:
        first (Tensor): Values of the first classifier per image, shape (N,).
        second (Tensor): Values of the second classifier, shape (N,).

    Returns:
        float: The p-value; 1 if nothing differs.
    """
    difference = second - first
    if len(difference) < 2 or float(difference.std()) == 0:
        return 1.0
    return float(ttest_1samp(difference.numpy(), 0, alternative='greater').pvalue)
