# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Rewards of the teachers."""

import pytest
import torch
import torch.nn.functional as F

from mtkdrl_mm.models import KLDivergence
from mtkdrl_mm.rl import (
    ClosenessReward,
    LabelProbabilityReward,
    StudentLossReward,
    best_static_weights,
)
from mtkdrl_mm.structures import NetworkOutput, StepTerms, TeacherWeights


def terms_of(student, *teachers, labels):
    return StepTerms(
        NetworkOutput(student, None),
        [NetworkOutput(t, None) for t in teachers],
        labels,
        logit_loss_fn=KLDivergence(),
    )


def equal_weights(terms):
    equal = torch.full((len(terms.labels), terms.num_teachers), 1 / terms.num_teachers)
    return TeacherWeights(equal, equal)


def test_closeness_is_minus_the_teachers_losses(make_terms):
    terms = make_terms(logit_loss_weight=0.7, feature_loss_weight=2.0)
    ce = F.cross_entropy(terms.student.logits, terms.labels, reduction='none')[:, None]
    expected = -(ce + 0.7 * terms.logit_loss + 2.0 * terms.feature_loss)
    reward = ClosenessReward()(terms, None)
    torch.testing.assert_close(reward, expected.detach())
    torch.testing.assert_close(reward, -terms.teacher_losses)
    assert not reward.requires_grad


def test_closeness_prefers_the_nearest_teacher_and_label_probability_the_right_one():
    student = torch.tensor([[1.0, 0.5, 0.0]])
    near_but_wrong, right = torch.tensor([[0.8, 0.9, 0.0]]), torch.tensor([[9.0, 0.0, 0.0]])
    terms = terms_of(student, near_but_wrong, right, labels=torch.tensor([0]))
    assert ClosenessReward()(terms, None).argmax() == 0
    assert LabelProbabilityReward()(terms, None).argmax() == 1


def test_student_loss_reward_is_minus_the_students_loss(make_terms):
    """One reward per image, the same for all its teachers, with the weights of the step."""
    terms = make_terms(logit_loss_weight=0.7, feature_loss_weight=2.0)
    logit = torch.rand(6, 3, dtype=torch.float64).softmax(dim=1)
    feature = torch.rand(6, 3, dtype=torch.float64).softmax(dim=1)
    reward = StudentLossReward()(terms, TeacherWeights(logit, feature))
    for i in range(6):
        ce = F.cross_entropy(terms.student.logits[i], terms.labels[i])
        kl = sum(logit[i, m] * terms.logit_loss[i, m] for m in range(3))
        distance = sum(feature[i, m] * terms.feature_loss[i, m] for m in range(3))
        expected = -(ce + 0.7 * kl + 2.0 * distance)
        torch.testing.assert_close(reward[i], expected.detach().expand(3))
    assert reward.shape == (6, 3) and not reward.requires_grad
    assert not torch.allclose(reward, StudentLossReward()(terms, equal_weights(terms)))


def test_probability_of_the_label():
    logits = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]]).log()
    other = torch.tensor([[0.1, 0.1, 0.8], [0.5, 0.25, 0.25]]).log()
    reward = LabelProbabilityReward()
    terms = terms_of(torch.zeros(2, 3), logits, other, labels=torch.tensor([0, 2]))
    expected = torch.tensor([[0.7, 0.1], [0.4, 0.25]])
    torch.testing.assert_close(reward(terms, None), expected)


def test_a_class_is_drawn_from_soft_labels():
    """So often as its share, and the same for all teachers."""
    logits = torch.tensor([[0.7, 0.2, 0.1]]).log().expand(20000, 3)
    other = torch.tensor([[0.1, 0.6, 0.3]]).log().expand(20000, 3)
    soft = torch.tensor([[0.75, 0.25, 0.0]]).expand(20000, 3)
    rewards = LabelProbabilityReward()(
        terms_of(torch.zeros(20000, 3), logits, other, labels=soft), None
    )
    torch.testing.assert_close(rewards.unique(dim=0), torch.tensor([[0.2, 0.6], [0.7, 0.1]]))
    share = float((rewards[:, 0] > 0.5).float().mean())
    assert share == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 20000) ** 0.5)


def test_mixup_does_not_favour_the_teacher_that_is_sure_of_the_larger_class():
    """The one that says the mixture makes the mixed labels most likely."""
    generator = torch.Generator().manual_seed(0)
    factor = torch.rand(4096, 1, generator=generator)
    first, second = (F.one_hot(torch.full((4096,), k), 3).float() for k in (0, 1))
    labels = factor * first + (1 - factor) * second
    calibrated = (0.97 * labels + 0.01).log()
    sure = (0.97 * torch.where(factor > 0.5, first, second) + 0.01).log()
    terms = terms_of(torch.zeros(4096, 3), calibrated, sure, labels=labels)
    rewards = LabelProbabilityReward()(terms, None)
    assert rewards.mean(dim=0).argmax() == 1  # the expected reward would prefer it
    weights = best_static_weights(rewards)
    assert weights[0] > 0.95
