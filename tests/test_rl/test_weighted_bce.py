# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""MTKD-RL as released: fused weights, one reward per image, weighted cross entropy."""

import pytest
import torch
import torch.nn.functional as F

from mtkdrl_mm.models import MTKDRL
from mtkdrl_mm.rl import BatchZScoreAdvantage, RolloutBuffer, StudentLossReward, WeightedBCE

PARTS = ('agent', 'confidence', 'divergence')
SGD = dict(type='SGD', lr=0.1)


def load_joint_policy(weighting, peers):
    """The authors' joint policy, whose states are in another order."""
    layout, columns, start = weighting.state_layout, [], 0
    for m, size in enumerate(layout.sizes):
        # cosine, KL, cross entropy, embedding, logits
        d, c = layout.embedding_sizes[m], layout.logit_size
        theirs = dict(cosine=0, gap=1, cross_entropy=2)
        columns += [*range(start + 3, start + 3 + d + c)]
        columns += [start + theirs[part] for part in ('cross_entropy', 'cosine', 'gap')]
        start += size
    weighting.agent.agent.load_state_dict(
        {
            'stem.0.weight': peers['joint_policy/steam.0.weight'][:, columns],
            'stem.0.bias': torch.zeros(128),
            **{
                f'{head}_head.{kind}': peers[f'joint_policy/{head}_head.{kind}']
                for head in ('logit', 'feature')
                for kind in ('weight', 'bias')
            },
        }
    )


@pytest.fixture
def released(peers, peers_terms, make_spec):
    weighting = MTKDRL(
        make_spec(peers_terms),
        agent=dict(type='JointAgent', standardize=False),
        policy='fused',
    ).double()
    load_joint_policy(weighting, peers)
    weighting.warming_up = False
    return weighting


def test_fused_weights_of_the_original_code(released, peers, peers_terms):
    weights = released(peers_terms)
    for ours, key in ((weights.logit, 'logit'), (weights.feature, 'feature')):
        torch.testing.assert_close(ours, peers[f'joint_policy_{key}_weights'], rtol=0, atol=1e-6)


def test_loss_of_the_original_weights(released, peers, peers_terms):
    """-A log w of the weights that the authors' code computed, with A in closed form."""
    action = released(peers_terms)
    rewards = StudentLossReward()(peers_terms, action)
    one = rewards[:, 0]
    assert torch.equal(rewards, one[:, None].expand(6, 4))
    advantage = ((one - one.mean()) / one.std(correction=0)).clamp(0, 1)
    assert 0 < (advantage > 0).sum() < 6
    expected = sum(
        -(advantage[:, None] * peers[f'joint_policy_{head}_weights'].log()).sum(dim=1).mean()
        for head in ('logit', 'feature')
    )
    algorithm = WeightedBCE(released.agent, advantage=BatchZScoreAdvantage())
    loss = algorithm.loss(action.states, algorithm.normalize_step(rewards))
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)


def test_gradient_goes_through_the_fusion(released, peers_terms):
    """d(-A log w)/d scores with w = (pi + c + g) / 3, by hand."""
    action = released(peers_terms)
    agent, fused = released.agent.agent, released.agent
    algorithm = WeightedBCE(fused, advantage=BatchZScoreAdvantage())
    advantage = algorithm.normalize_step(torch.rand(6, 4, dtype=torch.float64))
    fused.requires_grad_(True)
    loss = algorithm.loss(action.states, advantage)
    (gradient,) = torch.autograd.grad(loss, agent.logit_head.bias)
    policy = agent(action.states)[0].exp().detach()
    pulled = -advantage / (3 * action.logit) / 6  # dL/d pi
    expected = policy * (pulled - (pulled * policy).sum(dim=1, keepdim=True))
    torch.testing.assert_close(gradient, expected.sum(dim=0))
    assert gradient.abs().max() > 1e-4


def test_equal_rewards_of_an_image_pull_its_weights_together(make_terms, make_spec):
    """The released reward teaches no preference between teachers."""
    terms = make_terms(dtype=torch.float32)
    weighting = MTKDRL(make_spec(terms), agent=dict(type='JointAgent'), policy='fused')
    weighting.warming_up = False
    with torch.no_grad():
        weighting.agent.agent.logit_head.bias.copy_(torch.tensor([2.0, 0.0, -2.0]))
    buffer = RolloutBuffer(weighting.agent.state_sizes, 1)
    states = weighting(terms).states
    rewards = torch.arange(6.0)[:, None].expand(6, 3)
    algorithm = WeightedBCE(weighting.agent, SGD, advantage=BatchZScoreAdvantage())
    buffer.add(states, algorithm.normalize_step(rewards), torch.Generator())
    spread = [weighting.agent(states)[0].exp().std(dim=1)[4:].mean()]
    for _ in range(100):
        algorithm.update(buffer)
    spread.append(weighting.agent(states)[0].exp().std(dim=1)[4:].mean())
    assert spread[1] < 0.5 * spread[0]


def test_loss_is_torchs_binary_cross_entropy():
    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scores = torch.nn.Parameter(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))

        def forward(self, states):
            return self.scores.log_softmax(1), self.scores.flip(1).log_softmax(1)

    agent = Fixed()
    rewards = torch.tensor([[1.0, 3.0], [0.0, 2.0]])
    algorithm = WeightedBCE(agent, advantage=BatchZScoreAdvantage())
    advantage = algorithm.normalize_step(rewards)
    expected = sum(
        (F.binary_cross_entropy(w.exp(), torch.ones(2, 2), reduction='none') * advantage)
        .sum(dim=1)
        .mean()
        for w in agent([])
    )
    torch.testing.assert_close(algorithm.loss([], advantage), expected)
