# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""AVER and MTKDRL."""

from itertools import combinations

import pytest
import torch

from mtkdrl_mm.models import AVER, MTKDRL, PerTeacherAgent
from mtkdrl_mm.models.weightings import mtkdrl
from mtkdrl_mm.structures import AgentAction
from mtkdrl_mm.structures.teacher_weights import confidence
from mtkdrl_mm.utils import InputError

SUBSETS = [
    parts
    for size in (1, 2, 3)
    for parts in combinations(('agent', 'confidence', 'divergence'), size)
]


def test_aver(make_terms, make_spec):
    terms = make_terms(teachers=4)
    weights = AVER(make_spec(terms))(terms)
    expected = torch.full((6, 4), 0.25, dtype=torch.float64)
    assert torch.equal(weights.logit, expected) and torch.equal(weights.feature, expected)
    assert not isinstance(weights, AgentAction) and AVER.trainer_config is None


@pytest.mark.parametrize('parts', SUBSETS)
def test_fused_action_is_the_mean_of_the_chosen_parts(make_terms, make_spec, parts):
    terms = make_terms()
    weighting = MTKDRL(make_spec(terms), parts=parts).double()
    weighting.warming_up = False
    weights = weighting(terms)
    policies = [p.exp() for p in weighting.agent(weighting.state(terms))]
    for ours, policy, distances in (
        (weights.logit, policies[0], terms.logit_loss),
        (weights.feature, policies[1], terms.feature_cosine),
    ):
        values = dict(
            agent=policy,
            confidence=confidence(terms.teacher_ce),
            divergence=distances.softmax(dim=1),
        )
        expected = sum(values[part] for part in parts) / len(parts)
        torch.testing.assert_close(ours, expected.detach())
        torch.testing.assert_close(ours.sum(dim=1), torch.ones(6, dtype=torch.float64))
        assert not ours.requires_grad


def test_default_is_the_published_method(make_terms, make_spec):
    """Per-teacher agents on the five-part state; the mean of all three parts."""
    terms = make_terms()
    weighting = MTKDRL(make_spec(terms)).double()
    weighting.warming_up = False
    assert isinstance(weighting.agent, PerTeacherAgent)
    assert weighting.agent.state_sizes == [m + 3 + 5 + 3 for m in range(3)]
    policies = weighting.agent(weighting.state(terms))
    weights = weighting(terms)
    shared = confidence(terms.teacher_ce)
    for ours, policy, gap in (
        (weights.logit, policies[0], terms.logit_loss),
        (weights.feature, policies[1], terms.feature_cosine),
    ):
        expected = (policy.exp() + shared + gap.softmax(dim=1)) / 3
        torch.testing.assert_close(ours, expected.detach())


def test_warm_up_gives_equal_weights_but_shows_the_agents_view(make_terms, make_spec):
    terms = make_terms(teachers=4)
    weighting = MTKDRL(make_spec(terms)).double()
    weights = weighting(terms)
    expected = torch.full((6, 4), 0.25, dtype=torch.float64)
    assert torch.equal(weights.logit, expected) and torch.equal(weights.feature, expected)
    for ours, state in zip(weights.states, weighting.state(terms)):
        assert torch.equal(ours, state)
    weighting.warming_up = False
    assert not torch.allclose(weighting(terms).logit, expected, atol=1e-3)


def test_probed_feature_weights_take_the_place_of_the_policy(make_terms, make_spec):
    """They are the same for all images, and a teacher may have none."""
    terms, probed = make_terms(), torch.tensor([0.7, 0.3, 0.0], dtype=torch.float64)
    weighting = MTKDRL(make_spec(terms), parts=['agent'], feature_weights='probes').double()
    plain = MTKDRL(make_spec(terms), parts=['agent']).double()
    plain.agent.load_state_dict(weighting.agent.state_dict())
    plain.warming_up = weighting.warming_up = False
    equal = torch.full((6, 3), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(weighting(terms).feature, equal)
    weighting.set_probed_weights(probed)
    weights = weighting(terms)
    assert torch.equal(weights.logit, plain(terms).logit)
    assert torch.equal(weights.feature, probed.expand(6, 3))
    assert torch.equal(weights.policy_entropy, plain(terms).policy_entropy)  # the agent's own
    # They are saved with the model, and are nothing during the warm-up.
    other = MTKDRL(make_spec(terms), parts=['agent'], feature_weights='probes').double()
    other.load_state_dict(weighting.state_dict())
    assert torch.equal(other.probed_weights, probed)
    assert torch.equal(other(terms).feature, equal)


def test_probed_feature_weights_are_fused_like_the_policy(make_terms, make_spec):
    terms, probed = make_terms(), torch.tensor([0.5, 0.4, 0.1], dtype=torch.float64)
    weighting = MTKDRL(make_spec(terms), feature_weights='probes').double()
    weighting.warming_up = False
    weighting.set_probed_weights(probed)
    parts = probed + confidence(terms.teacher_ce) + terms.feature_cosine.softmax(dim=1)
    torch.testing.assert_close(weighting(terms).feature, parts.detach() / 3)


def test_policy_entropy_is_the_mean_of_the_heads(make_terms, make_spec):
    terms = make_terms()
    weighting = MTKDRL(make_spec(terms)).double()
    policies = [p.exp() for p in weighting.agent(weighting.state(terms))]
    entropies = [-(p * p.log()).sum(dim=1) for p in policies]
    torch.testing.assert_close(weighting(terms).policy_entropy, sum(entropies).detach() / 2)


@pytest.mark.parametrize('parts', SUBSETS)
def test_a_single_teacher_counts_fully(make_terms, make_spec, parts):
    terms = make_terms(teachers=1)
    weighting = MTKDRL(make_spec(terms), parts=parts).double()
    weighting.warming_up = False
    weights = weighting(terms)
    one = torch.ones(6, 1, dtype=torch.float64)
    assert torch.equal(weights.logit, one) and torch.equal(weights.feature, one)


def test_state_switches_set_the_agents_input(make_terms, make_spec):
    terms = make_terms()
    spec = make_spec(terms)
    assert MTKDRL(spec).agent.state_sizes == [3 + 5 + 3, 4 + 5 + 3, 5 + 5 + 3]
    assert MTKDRL(spec, state=dict(gap=False)).agent.state_sizes == [9, 10, 11]
    assert MTKDRL(spec, state=dict(performance=False)).agent.state_sizes == [2, 2, 2]


def test_agent_is_frozen_and_needs_its_hook(make_terms, make_spec):
    weighting = MTKDRL(make_spec(make_terms()))
    with pytest.raises(InputError, match=r"add agent=dict\(type='mtkdrl_mm.AgentHook'\) to"):
        weighting.check_trainer()
    weighting.attach_trainer()
    weighting.check_trainer()
    AVER(make_spec(make_terms())).check_trainer()
    assert list(weighting.parameters())
    assert not any(p.requires_grad for p in weighting.parameters())


def test_a_trainer_ends_the_warm_up(make_terms, make_spec, monkeypatch):
    """A loop without AgentHook, or a look at a checkpoint, had equal weights and no word of it."""
    told = []
    monkeypatch.setattr(mtkdrl, 'print_log', lambda text, *_: told.append(text))
    terms = make_terms(dtype=torch.float32)
    weighting = MTKDRL(make_spec(terms))
    for _ in range(2):
        assert torch.equal(weighting(terms).logit, torch.full((6, 3), 1 / 3))
    assert len(told) == 1 and told[0].startswith('All weights of MTKDRL are 1/M')
    weighting = MTKDRL(make_spec(terms))
    weighting.attach_trainer()
    assert (weighting(terms).logit - 1 / 3).abs().max() > 0.01
    weighting.warming_up = True  # as its trainer wishes
    assert torch.equal(weighting(terms).logit, torch.full((6, 3), 1 / 3))
    assert len(told) == 1


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(parts=['agnt']), r'"agnt".*Did you mean "agent"\?'),
        (dict(parts=[]), 'at least one of'),
        (dict(parts=['agent', 'agent']), 'each once'),
        (dict(state=dict(performance=False, gap=False)), 'state would be empty'),
        (dict(state=dict(gaps=True)), '`state` of the weighting.*gaps'),
        (dict(agent=dict(type='PerTeacherAgnet')), 'agent "PerTeacherAgnet".*"PerTeacherAgent"'),
        (dict(agent=dict(type='JointAgent', hiden=3)), 'no argument "hiden".*"hidden"'),
        (dict(policy='whole'), "`policy` must be 'agent' or 'fused', but is 'whole'"),
        (dict(mixing='free'), "`mixing` must be 'fixed' or 'dynamic', but is 'free'"),
        (dict(feature_weights='probe'), "`feature_weights` must be 'agent' or 'probes', but is"),
        (
            dict(feature_weights='probes', policy='fused'),
            "`feature_weights='probes'` takes the place of .* set it to 'agent'",
        ),
        (
            dict(feature_weights='probes', parts=['confidence']),
            "the agent's place, which is not among the `parts`",
        ),
        (dict(agent=dict(type='AVER')), 'Unknown agent "AVER".*"JointAgent"'),
    ],
)
def test_bad_arguments(make_terms, make_spec, kwargs, message):
    with pytest.raises(InputError, match=message):
        MTKDRL(make_spec(make_terms()), **kwargs)
