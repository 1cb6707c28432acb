# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Policies over the teachers."""

import pytest
import torch

from mtkdrl_mm.models import (
    MTKDRL,
    Agent,
    AttentionAgent,
    JointAgent,
    PerTeacherAgent,
    PoolSpec,
    StaticAgent,
)
from mtkdrl_mm.rl import MixtureLikelihood, RolloutBuffer, TeacherState

SIZES = [4, 6, 5]


def random_states(images=8, sizes=SIZES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, size, generator=generator) for size in sizes]


def test_joint_agent_of_the_original_code(peers, peers_terms, make_spec):
    spec = make_spec(peers_terms)
    weighting = MTKDRL(
        spec,
        agent=dict(type='JointAgent', standardize=False),
        parts=['agent', 'confidence', 'divergence'],
    ).double()
    # Their order is cosine, KL, cross entropy, embedding, logits.
    columns, start = [], 0
    for size in spec.embedding_sizes:
        cosine, kl, ce = start, start + 1, start + 2
        embedding = range(start + 3, start + 3 + size)
        logits = range(start + 3 + size, start + 3 + size + 10)
        columns += [*embedding, *logits, ce, cosine, kl]
        start += 3 + size + 10
    missing, unexpected = weighting.agent.load_state_dict(
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
    assert not missing and not unexpected
    weighting.warming_up = False
    weights = weighting(peers_terms)
    for ours, theirs in (
        (weights.logit, peers['joint_policy_logit_weights']),
        (weights.feature, peers['joint_policy_feature_weights']),
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize('kind', [PerTeacherAgent, JointAgent])
def test_policies_are_distributions_over_the_teachers(kind):
    for log_probs in kind(SIZES)(random_states()):
        assert log_probs.shape == (8, 3)
        torch.testing.assert_close(log_probs.exp().sum(dim=1), torch.ones(8))


@pytest.mark.parametrize('kind', [PerTeacherAgent, JointAgent])
def test_single_teacher_is_chosen_for_certain(kind):
    for log_probs in kind([4])(random_states(sizes=[4])):
        assert torch.equal(log_probs.exp(), torch.ones(8, 1))


@pytest.mark.parametrize('kind', [PerTeacherAgent, JointAgent])
def test_images_do_not_influence_each_other(kind):
    agent, states = kind(SIZES), random_states()
    whole = agent(states)
    for i in range(8):
        alone = agent([state[i : i + 1] for state in states])
        for a, b in zip(alone, whole):
            torch.testing.assert_close(a, b[i : i + 1])


def test_per_teacher_agent_is_a_small_network_per_teacher():
    agent, states = PerTeacherAgent(SIZES, hidden=16, standardize=False), random_states()
    scores = []
    for network, state in zip(agent.networks.values(), states):
        first, second = network[0], network[2]
        hidden = (state @ first.weight.T + first.bias).clamp(min=0)
        scores.append(hidden @ second.weight.T + second.bias)
    scores = torch.stack(scores, dim=1)
    for head, log_probs in enumerate(agent(states)):
        torch.testing.assert_close(log_probs.exp(), scores[..., head].softmax(dim=1))


def test_per_teacher_scores_do_not_see_the_other_teachers():
    states, other = random_states(), random_states(seed=1)
    changed = [states[0], other[1], states[2]]
    agent = PerTeacherAgent(SIZES)
    for a, b in zip(agent.scores(states), agent.scores(changed)):
        assert torch.equal(a[:, [0, 2]], b[:, [0, 2]])
        assert not torch.allclose(a[:, 1], b[:, 1])
    for a, b in zip(JointAgent(SIZES).scores(states), JointAgent(SIZES).scores(changed)):
        assert not torch.allclose(a[:, 0], b[:, 0])


def test_standardisation_is_undone_by_scaling_the_states():
    # With standardised states an agent does not notice another unit of measure.
    states = random_states(images=64)
    scaled = [state * 100 - 30 for state in states]
    agents = [PerTeacherAgent(SIZES), PerTeacherAgent(SIZES)]
    agents[1].load_state_dict(agents[0].state_dict())
    for agent, seen in zip(agents, (states, scaled)):
        buffer = RolloutBuffer(SIZES, 1)
        buffer.add(seen, torch.zeros(64, 3), torch.Generator())
        agent.update_state_stats(buffer)
    for a, b in zip(agents[0](states), agents[1](scaled)):
        torch.testing.assert_close(a, b, rtol=0, atol=0.01)
    fresh = PerTeacherAgent(SIZES)
    fresh.load_state_dict(
        {**agents[0].state_dict(), **fresh.normalizer.state_dict(prefix='normalizer.')}
    )
    assert not torch.allclose(fresh(states)[0], fresh(scaled)[0], atol=0.1)


def test_standardisation_can_be_switched_off():
    agent = JointAgent(SIZES, standardize=False)
    assert not list(agent.buffers())
    agent.update_state_stats(None)
    assert list(JointAgent(SIZES).buffers())


def test_a_new_agent_is_one_file_and_one_line(peers_terms, make_spec):
    class SureAgent(Agent):
        def scores(self, states):
            first = torch.tensor([30.0, 0.0, 0.0, 0.0]).expand(len(states[0]), 4)
            return first, first.flip(1)

    weighting = MTKDRL(make_spec(peers_terms), agent=dict(type=SureAgent), parts=['agent'])
    weighting.double().warming_up = False
    weights = weighting(peers_terms)
    expected = torch.eye(4)[[0]].expand(6, 4)
    torch.testing.assert_close(weights.logit, expected)
    torch.testing.assert_close(weights.feature, expected.flip(1))
    assert weighting.agent.state_sizes == TeacherState().layout([12, 16, 10, 14], 10).sizes


def test_static_agent_learns_one_policy_for_all_images():
    """The best mixture of teachers that are right with 0.9 on 70 % and 30 % of the images."""
    agent = StaticAgent([3, 3])
    states = random_states(400, [3, 3])
    for head in agent(states):
        assert torch.equal(head.exp(), torch.full((400, 2), 0.5))
    right = torch.arange(400) % 10 < 7
    rewards = torch.stack([right * 0.8 + 0.1, ~right * 0.8 + 0.1], dim=1)
    buffer = RolloutBuffer([3, 3], 1.0)
    buffer.add(states, rewards, torch.Generator())
    algorithm = MixtureLikelihood(agent, optimizer=dict(type='SGD', lr=0.5), epochs=100)
    algorithm.update(buffer)
    for head in agent(states):
        weights = head.exp()
        assert torch.equal(weights, weights[:1].expand(400, 2))
        assert float(weights[0, 0]) == pytest.approx((0.9 * 0.7 - 0.1 * 0.3) / 0.8, abs=0.01)


def test_attention_agent_on_states_without_embeddings(make_terms):
    state = TeacherState(embedding=False, cross_entropy=False)
    layout = state.layout([3, 4, 5], 5)
    agent = AttentionAgent(layout, hidden=8, heads=2)
    states = state(make_terms(dtype=torch.float32))
    assert agent.normalized_sizes == [7] * 3  # five logits, cosine and gap; no bins
    assert torch.equal(agent.tokens(states), torch.stack(states, dim=1))
    for head in agent(states):
        torch.testing.assert_close(head.exp().sum(dim=1), torch.ones(len(head)))


def test_attention_is_added_to_the_tokens(make_terms):
    """Without what the others say, every teacher's scores are of its own token."""
    state = TeacherState(embedding=False)
    agent = AttentionAgent(state.layout([3, 4, 5], 5), hidden=8, heads=2)
    states = agent.normalize(state(make_terms(dtype=torch.float32)))
    with torch.no_grad():
        agent.attention.out_proj.weight.zero_()
        agent.attention.out_proj.bias.zero_()
    expected = agent.head(agent.encoder(torch.stack(list(states), dim=1)))
    for head, scores in enumerate(agent.scores(states)):
        torch.testing.assert_close(scores, expected[..., head])
        assert scores.std() > 0.01


@pytest.mark.parametrize('size', [2, 9])
def test_learned_projection_of_states_without_embeddings(make_terms, size):
    spec = PoolSpec(('a', 'b', 'c'), 5, (3, 4, 5), (3, 4, 5))
    weighting = MTKDRL(
        spec,
        agent='JointAgent',
        parts=['agent'],
        state=dict(embedding=False, gap=False, learned_projection_size=size),
    )
    weighting.warming_up = False
    weights = weighting(make_terms(dtype=torch.float32))
    torch.testing.assert_close(weights.logit.sum(dim=1), torch.ones(6))
    first = weighting.agent.agent.stem[0]
    assert first.in_features == 3 * (min(size, 5) + 1)
