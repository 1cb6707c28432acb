# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Rewards of the teachers."""

import pytest
import torch
import torch.nn.functional as F

from mtkdrl_mm.models import KLDivergence
from mtkdrl_mm.rl import (
    ClosenessReward,
    ImprovementReward,
    LabelProbabilityReward,
    StudentLossReward,
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


def improvement(terms, **kwargs):
    """No function of the weights."""
    return ImprovementReward(**kwargs)(terms, None)


@pytest.mark.parametrize('temperature', [1.0, 4.0])
@pytest.mark.parametrize('soft', [False, True])
def test_improvement_is_the_inner_product_of_autograds_gradients(make_terms, temperature, soft):
    labels = torch.rand(6, 5, dtype=torch.float64).softmax(1) if soft else None
    terms = make_terms(temperature=temperature, labels=labels)
    logits = terms.student.logits
    ce = F.cross_entropy(logits, terms.labels, reduction='sum')
    (of_ce,) = torch.autograd.grad(ce, logits, retain_graph=True)
    expected = []
    for m in range(3):
        kl = KLDivergence(temperature)(terms)[:, m].sum()
        (of_kl,) = torch.autograd.grad(kl, logits, retain_graph=True)
        expected.append((of_kl * of_ce).sum(dim=1))
    reward = improvement(terms)
    torch.testing.assert_close(reward, torch.stack(expected, dim=1))
    assert not reward.requires_grad


def test_improvement_is_the_decrease_of_the_students_cross_entropy(make_terms):
    terms = make_terms(temperature=2.0)
    logits, step = terms.student.logits, 1e-6
    for m in range(3):
        kl = KLDivergence(2.0)(terms)[:, m].sum()
        (gradient,) = torch.autograd.grad(kl, logits, retain_graph=True)
        after = F.cross_entropy(logits - step * gradient, terms.labels, reduction='none')
        decrease = (terms.student_ce - after).detach() / step
        torch.testing.assert_close(improvement(terms)[:, m], decrease, rtol=0, atol=1e-4)


def test_improvement_ranks_teachers_by_what_they_say():
    student = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 2])
    right = 20 * F.one_hot(labels, 3).double()
    wrong = 20 * F.one_hot(torch.tensor([1, 0]), 3).double()
    same = student + 3  # the same probabilities
    reward = improvement(terms_of(student, right, same, wrong, labels=labels))
    assert (reward[:, 0] > 0.5).all()
    torch.testing.assert_close(reward[:, 1], torch.zeros(2, dtype=torch.float64))
    assert (reward[:, 2] < -0.1).all()


def test_improvement_closed_form():
    # p^S = (1/2, 1/2), p^m = (3/4, 1/4), T = 1, label 0: g^m = (-1/4, 1/4), g^y = (-1/2, 1/2).
    student, teacher = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
    terms = terms_of(student, teacher, labels=torch.tensor([0]))
    terms.temperature = 1.0
    torch.testing.assert_close(improvement(terms), torch.tensor([[0.25]]))


def test_closeness_is_minus_the_teachers_losses(make_terms):
    terms = make_terms(logit_loss_weight=0.7, feature_loss_weight=2.0)
    ce = F.cross_entropy(terms.student.logits, terms.labels, reduction='none')[:, None]
    expected = -(ce + 0.7 * terms.logit_loss + 2.0 * terms.feature_loss)
    reward = ClosenessReward()(terms, None)
    torch.testing.assert_close(reward, expected.detach())
    torch.testing.assert_close(reward, -terms.teacher_losses)
    assert not reward.requires_grad


def test_closeness_prefers_the_nearest_teacher_and_improvement_the_right_one():
    student = torch.tensor([[1.0, 0.5, 0.0]])
    near_but_wrong, right = torch.tensor([[0.8, 0.9, 0.0]]), torch.tensor([[9.0, 0.0, 0.0]])
    terms = terms_of(student, near_but_wrong, right, labels=torch.tensor([0]))
    assert ClosenessReward()(terms, None).argmax() == 0
    assert improvement(terms).argmax() == 1


def test_cosine_of_the_improvement(make_terms):
    """What counts is the direction: between -1 and 1, with the improvement's sign."""
    terms = make_terms()
    plain, cosine = improvement(terms), improvement(terms, cosine=True)
    assert torch.equal(plain.sign(), cosine.sign())
    assert cosine.abs().max() <= 1
    student, teacher = torch.zeros(1, 3), torch.tensor([[40.0, 0.0, 0.0]])
    # A teacher who is sure of the right answer pulls where the label pulls.
    sure = terms_of(student, teacher, labels=torch.tensor([0]))
    sure.temperature = 1.0
    torch.testing.assert_close(improvement(sure, cosine=True), torch.ones(1, 1))


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
    soft = torch.tensor([[0.5, 0.5, 0], [0, 0.2, 0.8]])
    terms = terms_of(torch.zeros(2, 3), logits, other, labels=soft)
    expected = torch.tensor([[0.45, 0.1], [0.38, 0.25]])
    torch.testing.assert_close(reward(terms, None), expected)
