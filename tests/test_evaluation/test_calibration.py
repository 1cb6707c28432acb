# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Confidence against accuracy."""

import math

import pytest
import torch
import torch.nn.functional as F

from mtkdrl_mm.evaluation import (
    calibrated_log_likelihood,
    expected_calibration_error,
    fitted_temperature,
    log_likelihood,
    reliability_bins,
)


def test_calibration_error_by_hand():
    # Confidences 0.9 (right), 0.8 (wrong) and 0.55 (right), in bins 13, 12 and 8 of 15.
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.45, 0.55]])
    labels = torch.tensor([0, 1, 1])
    expected = (abs(1 - 0.9) + abs(0 - 0.8) + abs(1 - 0.55)) / 3
    assert expected_calibration_error(probabilities.log(), labels) == pytest.approx(expected)
    # With one bin for all, gaps of both signs cancel.
    whole = abs(2 / 3 - (0.9 + 0.8 + 0.55) / 3)
    assert expected_calibration_error(probabilities.log(), labels, 1) == pytest.approx(whole)


def test_reliability_bins_by_hand():
    # Confidences 0.9 (right) and 0.8 (wrong) in the last of three bins, 0.55 (right) before it.
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.45, 0.55]])
    bins = reliability_bins(probabilities.log(), torch.tensor([0, 1, 1]), 3)
    assert bins.count.tolist() == [0, 1, 2]
    assert bins.confidence.tolist() == pytest.approx([0, 0.55, 0.85])
    assert bins.accuracy.tolist() == [0, 1, 0.5]


def test_certain_and_right_is_calibrated():
    logits = 1000 * F.one_hot(torch.arange(4), 4).float()
    assert expected_calibration_error(logits, torch.arange(4)) == 0
    assert expected_calibration_error(logits, (torch.arange(4) + 1) % 4) == 1


def test_labels_drawn_from_the_probabilities_are_calibrated():
    logits = torch.randn(20000, 5) * 2
    labels = torch.multinomial(logits.softmax(dim=1), 1)[:, 0]
    assert expected_calibration_error(logits, labels) < 0.015
    assert expected_calibration_error(3 * logits, labels) > 0.1


def test_log_likelihood():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    expected = -F.cross_entropy(logits.double(), labels, reduction='none')
    torch.testing.assert_close(log_likelihood(logits, labels), expected)


def test_best_temperature_is_found():
    logits = torch.randn(20000, 5) * 2
    labels = torch.multinomial(logits.softmax(dim=1), 1)[:, 0]
    calibrated = calibrated_log_likelihood(5 * logits, labels)
    torch.testing.assert_close(
        calibrated.mean(), log_likelihood(logits, labels).mean(), atol=1e-3, rtol=0
    )
    assert fitted_temperature(5 * logits, labels) == pytest.approx(5, rel=0.03)


@pytest.mark.parametrize('factor', [0.1, 3.0, 40.0])
def test_scale_of_the_logits_does_not_matter(factor):
    logits, labels = torch.randn(200, 5), torch.randint(5, (200,))
    logits[torch.arange(200), labels] += 1
    expected = calibrated_log_likelihood(logits, labels)
    actual = calibrated_log_likelihood(factor * logits, labels)
    torch.testing.assert_close(actual, expected, atol=5e-3, rtol=0)


def test_guessing_is_the_least():
    logits, labels = torch.randn(500, 4), torch.randint(4, (500,))
    assert calibrated_log_likelihood(-5 * logits, labels).mean() >= -math.log(4) - 1e-2
