# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""States of bounded size."""

import pytest
import torch

from mtkdrl_mm.models import MTKDRL, PoolSpec
from mtkdrl_mm.rl import PolicyGradient, RandomProjection, RolloutBuffer, TeacherState
from mtkdrl_mm.utils import InputError


def test_same_seed_same_projection():
    inputs = torch.randn(4, 100)
    first = RandomProjection(8, seed=1)(inputs)
    assert first.shape == (4, 8)
    assert torch.equal(RandomProjection(8, seed=1)(inputs), first)
    assert not torch.allclose(RandomProjection(8, seed=2)(inputs), first)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    RandomProjection(7, seed=9)(inputs)  # draws nothing from the global generator
    assert torch.equal(torch.rand(2), expected)


def test_short_inputs_are_left_alone():
    inputs = torch.randn(4, 8)
    assert RandomProjection(8)(inputs) is inputs


def test_inner_products_are_kept():
    inputs = torch.randn(20, 2048, dtype=torch.float64)
    projected = RandomProjection(512)(inputs)
    norms = projected.square().sum(dim=1) / inputs.square().sum(dim=1)
    # the standard deviation of one is sqrt(2 / 512) = 0.0625
    assert (norms.mean() - 1).abs() < 0.06 and (norms - 1).abs().max() < 0.25


def test_state_is_projected_part_by_part(make_terms):
    terms = make_terms(classes=9)  # embeddings of 3, 4 and 5 numbers
    plain, small = TeacherState(), TeacherState(projection_size=4, projection_seed=3)
    projection = RandomProjection(4, seed=3)
    assert small.layout([3, 4, 5], 9).sizes == [3 + 4 + 3, 4 + 4 + 3, 4 + 4 + 3]
    for d, whole, state in zip((3, 4, 5), plain(terms), small(terms)):
        expected = [projection(whole[:, :d]), projection(whole[:, d : d + 9]), whole[:, d + 9 :]]
        torch.testing.assert_close(state, torch.cat(expected, dim=1))
    assert [state.shape[1] for state in small(terms)] == small.layout([3, 4, 5], 9).sizes


def test_imagenet_pool_needs_a_twentieth():
    sizes = [2048] * 4
    assert sum(TeacherState().layout(sizes, 1000).sizes) == 4 * 3051
    assert sum(TeacherState(projection_size=64).layout(sizes, 1000).sizes) == 4 * 131


PARTS = dict(fixed=['agent'], dynamic=['agent', 'confidence', 'divergence'])


@pytest.mark.parametrize('agent', ['JointAgent', 'PerTeacherAgent', 'AttentionAgent'])
@pytest.mark.parametrize('kind', ['projection_size', 'learned_projection_size'])
@pytest.mark.parametrize('mixing', ['fixed', 'dynamic'])
def test_agents_learn_from_projected_states(make_terms, make_spec, agent, kind, mixing):
    terms = make_terms(classes=9, dtype=torch.float32)
    weighting = MTKDRL(make_spec(terms), agent, PARTS[mixing], mixing, state={kind: 4})
    weighting.warming_up = False
    before = weighting(terms)
    torch.testing.assert_close(before.logit.sum(dim=1), torch.ones(6))
    assert [s.shape[1] for s in before.states] == weighting.agent.state_sizes
    random = kind == 'projection_size'
    assert weighting.agent.state_sizes == ([10, 11, 11] if random else [15, 16, 17])
    buffer = RolloutBuffer(weighting.agent.state_sizes, budget_mib=1)
    rewards = torch.tensor([[1.0, 0.0, 0.0]]).expand(6, 3)
    for _ in range(4):
        buffer.add(before.states, rewards.clone(), torch.Generator())
    algorithm = PolicyGradient(weighting.agent, dict(type='SGD', lr=0.5))
    parameters = {k: v.clone() for k, v in weighting.agent.named_parameters()}
    for _ in range(10):
        algorithm.update(buffer)
    assert weighting(terms).logit[:, 0].mean() > before.logit[:, 0].mean()
    if not random:
        now = weighting.agent.named_parameters()
        moved = [name for name, value in now if not torch.equal(value, parameters[name])]
        assert any('layers.2.1.weight' in name for name in moved)
        assert any('layers.0.1.weight' in name for name in moved)


def test_learned_projection_of_one_teacher_by_hand(make_terms, make_spec):
    terms = make_terms(classes=9, dtype=torch.float32)
    weighting = MTKDRL(
        make_spec(terms),
        dict(type='PerTeacherAgent', standardize=False),
        state=dict(learned_projection_size=4),
    )
    weighting.warming_up = False
    state = weighting.state(terms)[2]  # 5 + 9 + 3
    embedding, logits = weighting.agent.layers[2]
    seen = torch.cat([embedding(state[:, :5]), logits(state[:, 5:14]), state[:, 14:]], dim=1)
    scores = weighting.agent.agent.networks['t2'](seen)
    assert torch.equal(weighting.agent.scores(weighting.state(terms))[0][:, 2], scores[:, 0])
    assert weighting.agent.normalizer is None
    assert isinstance(weighting.agent.layers[0][0], torch.nn.Identity)  # 3 numbers


def test_statistics_are_those_of_the_whole_states(make_terms, make_spec):
    weighting = MTKDRL(make_spec(make_terms(classes=9)), state=dict(learned_projection_size=4))
    assert weighting.agent.normalizer.state_sizes == weighting.agent.state_sizes
    assert weighting.agent.agent.normalizer is None
    assert weighting.agent.normalized_sizes == weighting.agent.state_sizes


@pytest.mark.parametrize(
    ('state', 'message'),
    [
        (dict(projection_size=0), '`projection_size` must be a positive integer, but is 0'),
        (dict(projection_size=2.5), '`projection_size` must be a positive integer'),
        (dict(projection_size=4, performance=False), 'nothing to project'),
        (dict(learned_projection_size=4, performance=False), 'nothing to project'),
        (dict(learned_projection_size=0), '`learned_projection_size` must be at least 1'),
        (dict(projection_size=4, learned_projection_size=4), 'choose one'),
    ],
)
def test_bad_sizes(state, message):
    spec = PoolSpec(('a', 'b'), 5, (3, 4), (3, 4))
    with pytest.raises(InputError, match=message):
        MTKDRL(spec, state=state)
