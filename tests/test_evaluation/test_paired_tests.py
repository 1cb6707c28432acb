# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Tests on the same images."""

import warnings

import pytest
import torch

from mtkdrl_mm.evaluation import mcnemar, paired_gain


def test_mcnemar_counts_the_images_that_differ():
    first = torch.tensor([True] * 50 + [False] * 10)
    second = first.clone()
    second[50:58] = True  # 8 gained
    second[:2] = False  # 2 lost
    # P(at least 8 of 10 heads)
    assert mcnemar(first, second) == pytest.approx((45 + 10 + 1) / 1024)
    assert mcnemar(second, first) == pytest.approx(1 - (1 + 10) / 1024)
    assert mcnemar(first, first) == 1


def test_paired_gain():
    first = torch.randn(40).double()
    assert paired_gain(first, first) == 1
    second = first + 0.1 + 0.01 * torch.randn(40)
    assert paired_gain(first, second) < 1e-20
    assert paired_gain(second, first) > 0.999
    difference = torch.tensor([1.0, 2.0, 3.0]).double()
    # t = 2 / (1 / sqrt(3)) with 2 degrees of freedom
    assert paired_gain(torch.zeros(3).double(), difference) == pytest.approx(0.03709, abs=1e-5)


def test_paired_gain_of_differences_that_do_not_vary():
    """The limit of the t-test as they vary less and less; nothing is printed about it."""
    zeros, ones = torch.zeros(5).double(), torch.ones(5).double()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert paired_gain(zeros, ones) == 0
        assert paired_gain(ones, zeros) == 1
        assert paired_gain(ones, ones) == 1
        assert paired_gain(zeros[:1], ones[:1]) == 1
