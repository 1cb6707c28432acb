# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Distributions over the teachers that need no training."""

import pytest
import torch

from mtkdrl_mm.structures import NetworkOutput, StepTerms
from mtkdrl_mm.structures.teacher_weights import confidence, divergence, entropy


def test_confidence_of_the_original_code(peers, peers_terms):
    torch.testing.assert_close(
        confidence(peers_terms.teacher_ce), peers['camkd_weights'], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize('teachers', [2, 3, 5])
def test_confidence_sums_to_one_and_prefers_the_right(make_terms, teachers):
    terms = make_terms(teachers=teachers)
    weights = confidence(terms.teacher_ce)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(6, dtype=torch.float64))
    assert torch.equal(weights.argsort(dim=1), (-terms.teacher_ce).argsort(dim=1))
    assert weights.max() < 1 / (teachers - 1)


def test_confidence_closed_form():
    # Cross entropies of ln 2 and ln 4, so softmax 1/3 and 2/3.
    logits = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25]]).log().clamp(min=-1e30)
    terms = StepTerms(
        NetworkOutput(torch.zeros(1, 3), None),
        [NetworkOutput(row[None], None) for row in logits],
        torch.tensor([0]),
    )
    torch.testing.assert_close(confidence(terms.teacher_ce), torch.tensor([[2 / 3, 1 / 3]]))


def test_confidence_of_a_single_teacher_is_one(make_terms):
    assert torch.equal(
        confidence(make_terms(teachers=1).teacher_ce), torch.ones(6, 1, dtype=torch.float64)
    )


def test_divergence_is_a_softmax_without_gradient():
    distances = torch.tensor([[1.0, 3.0], [2.0, 2.0]]).log().requires_grad_()
    weights = divergence(distances)
    torch.testing.assert_close(weights, torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    assert not weights.requires_grad


def test_entropy_closed_form():
    log_probs = torch.tensor([[0.5, 0.5, 1e-30], [0.25, 0.25, 0.5]]).log()
    torch.testing.assert_close(entropy(log_probs), torch.tensor([2.0, 2**1.5]).log())


def test_entropy_where_a_probability_is_0():
    """What is impossible adds nothing, to the gradient either."""
    sure = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).log()
    torch.testing.assert_close(entropy(sure), torch.tensor([1.0, 2.0]).log())
    scores = torch.tensor([[0.0, -200.0], [0.0, 1.0]], requires_grad=True)
    entropy(scores.log_softmax(dim=1)).sum().backward()
    policy = scores.detach().double().softmax(dim=1)
    # dH/ds_1 = pi_1 pi_2 (s_2 - s_1) = -dH/ds_2, and 0 in the first row
    slope = policy.prod(dim=1) * torch.tensor([-200.0, 1.0])
    torch.testing.assert_close(scores.grad, torch.stack([slope, -slope], dim=1).float())
