# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Agreement of two teachers."""

import pytest
import torch
import torch.nn.functional as F

from mtkdrl_mm.evaluation import agreement


def certain(predicted, classes):
    return 5 * F.one_hot(predicted, classes).float()


def test_unrelated_mistakes_are_expected_to_agree_as_often_as_they_do():
    count, classes = 40000, 5
    labels = torch.randint(classes, (count,))
    logits = []
    for accuracy in (0.8, 0.6):
        wrong = (labels + torch.randint(1, classes, (count,))) % classes
        logits.append(certain(torch.where(torch.rand(count) < accuracy, labels, wrong), classes))
    result = agreement(*logits, labels)
    assert result.expected == pytest.approx(0.8 * 0.6 + 0.2 * 0.4 / 4, abs=0.01)
    assert result.observed == pytest.approx(result.expected, abs=0.01)
    assert abs(result.kappa) < 0.03 and not result.near_duplicate


def test_a_teacher_is_its_own_duplicate():
    labels = torch.randint(5, (300,))
    logits = torch.randn(300, 5)
    result = agreement(logits, logits + 1e-3 * torch.randn(300, 5), labels)
    assert result.observed > 0.99 and result.kappa > 0.98 and result.correlation > 0.999
    assert result.near_duplicate
    # a constant per image and a scale change no prediction
    shifted = agreement(logits, 2 * logits + torch.randn(300, 1), labels)
    assert shifted.correlation == pytest.approx(1) and shifted.near_duplicate


def test_teachers_that_are_always_right_are_no_duplicates_for_that():
    labels = torch.randint(5, (300,))
    logits = [certain(labels, 5) + torch.randn(300, 5) for _ in range(2)]
    result = agreement(*logits, labels)
    assert result.observed > 0.98 and not result.near_duplicate


def test_same_predicted_with_other_logits():
    labels, predicted = torch.randint(5, (300,)), torch.randint(5, (300,))
    logits = [certain(predicted, 5) + torch.rand(300, 5) * 4 for _ in range(2)]
    result = agreement(*logits, labels)
    assert result.kappa == 1 and result.correlation < 0.99 and result.near_duplicate


def test_of_two_classes_mistakes_are_the_same():
    labels = torch.zeros(8, dtype=torch.long)
    first, second = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    result = agreement(certain(first, 2), certain(second, 2), labels)
    assert result.observed == 0.75
    # Both right, 0.75 * 0.5, or both wrong, 0.25 * 0.5.
    assert result.expected == 0.5 and result.kappa == 0.5
