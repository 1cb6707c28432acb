# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Stacking of the teachers."""

import pytest
import torch

from mtkdrl_mm.models import JointAgent
from mtkdrl_mm.rl import MixtureLikelihood, RolloutBuffer

ADAM = dict(type='Adam', lr=0.02)


def buffer_of(states, rewards):
    buffer = RolloutBuffer([state.shape[1] for state in states], 1.0)
    for rows in torch.arange(len(rewards)).split(50):
        buffer.add([state[rows] for state in states], rewards[rows], torch.Generator())
    return buffer


def trained(states, rewards, updates=12):
    torch.manual_seed(0)
    agent = JointAgent([state.shape[1] for state in states], hidden=16)
    algorithm = MixtureLikelihood(agent, optimizer=ADAM, epochs=5)
    for _ in range(updates):
        algorithm.update(buffer_of(states, rewards))
    return agent(states)[0].exp()


def test_the_gradient_is_a_policy_gradient():
    """With R / (sum of the weighted rewards) - 1 in the place of the advantage."""
    torch.manual_seed(0)
    states, rewards = [torch.randn(9, 4), torch.randn(9, 4), torch.randn(9, 4)], torch.rand(9, 3)
    agent = JointAgent([4, 4, 4], hidden=8)
    algorithm = MixtureLikelihood(agent, entropy_weight=0.0)
    agent.requires_grad_(True)
    gradients = torch.autograd.grad(algorithm.loss(states, rewards), list(agent.parameters()))
    heads = [head.exp() for head in agent(states)]
    advantages = [
        (rewards / (rewards * head).sum(dim=1, keepdim=True) - 1).detach() for head in heads
    ]
    objective = sum((a * head).sum(dim=1).mean() for a, head in zip(advantages, heads))
    expected = torch.autograd.grad(-objective, list(agent.parameters()))
    for one, other in zip(gradients, expected):
        torch.testing.assert_close(one, other)


def test_the_best_mixture_of_two_that_are_right_by_turns():
    """Right with 0.9 on 70 % and 30 % of the images: J is greatest at a closed form."""
    right = torch.arange(400) % 10 < 7
    rewards = torch.stack([right * 0.8 + 0.1, ~right * 0.8 + 0.1], dim=1)
    weights = trained([torch.zeros(400, 1), torch.zeros(400, 1)], rewards)
    # d/dw [0.7 log(0.1 + 0.8 w) + 0.3 log(0.9 - 0.8 w)] = 0
    assert weights[:, 0].mean() == pytest.approx((0.9 * 0.7 - 0.1 * 0.3) / 0.8, abs=0.02)


def test_it_follows_the_state():
    torch.manual_seed(1)
    right = torch.randint(2, (400,))
    rewards = torch.nn.functional.one_hot(right, 2) * 0.8 + 0.1
    states = [torch.randn(400, 2), torch.randn(400, 2)]
    states[1][:, 0] = 2.0 * right - 1
    weights = trained(states, rewards)
    assert weights.gather(1, right[:, None]).mean() > 0.95


def test_three_of_a_kind_share_the_weight_of_one():
    torch.manual_seed(2)
    first, second = torch.rand(2, 500, 1)
    blank = torch.zeros(500, 1)
    pair = trained([blank, blank], torch.cat([first, second], dim=1))
    copies = trained([blank] * 4, torch.cat([first, first, first, second], dim=1))
    assert float(copies[:, :3].sum(dim=1).mean()) == pytest.approx(
        float(pair[:, 0].mean()), abs=0.02
    )


def test_a_label_that_no_teacher_thinks_possible():
    states = [torch.randn(4, 2), torch.randn(4, 2)]
    algorithm = MixtureLikelihood(JointAgent([2, 2], hidden=4))
    loss = algorithm.loss(states, torch.zeros(4, 2))
    # Two heads, each with the logarithm of 1e-8.
    assert float(loss) == pytest.approx(2 * 18.4207, rel=1e-4)
