# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Policies that fuse an agent with confidence and divergence."""

import pytest
import torch

from mtkdrl_mm.models import MTKDRL
from mtkdrl_mm.rl import PolicyGradient, RolloutBuffer
from mtkdrl_mm.utils import InputError

PARTS = ('agent', 'confidence', 'divergence')


def make_weighting(make_spec, terms, **kwargs):
    weighting = MTKDRL(make_spec(terms), **kwargs).double()
    weighting.warming_up = False
    return weighting


def test_equal_factors_are_the_fixed_mixing(make_terms, make_spec):
    terms = make_terms()
    fixed = make_weighting(make_spec, terms, parts=PARTS)
    dynamic = make_weighting(make_spec, terms, mixing='dynamic')
    dynamic.agent.agent.load_state_dict(fixed.agent.state_dict())
    for kind in ('logit', 'feature'):
        ours, expected = getattr(dynamic(terms), kind), getattr(fixed(terms), kind)
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize('parts', [PARTS, ('agent', 'divergence'), ('confidence', 'agent')])
def test_factors_choose_among_the_parts(make_terms, make_spec, parts):
    terms = make_terms()
    dynamic = make_weighting(make_spec, terms, mixing='dynamic', parts=parts)
    for chosen, part in enumerate(parts):
        with torch.no_grad():
            dynamic.agent.mixing.copy_(torch.eye(len(parts))[chosen] * 100)
        alone = make_weighting(make_spec, terms, parts=(part,))
        alone.agent.load_state_dict(dynamic.agent.agent.state_dict())
        torch.testing.assert_close(dynamic(terms).logit, alone(terms).logit)
        torch.testing.assert_close(dynamic(terms).feature, alone(terms).feature)


def test_factors_learn_who_is_right(make_terms, make_spec):
    """The reward agrees with the confidence and with nothing else."""
    terms = make_terms(teachers=3)
    dynamic = MTKDRL(make_spec(terms), mixing='dynamic').float()
    states = [s.float() for s in dynamic.state(terms)]
    buffer = RolloutBuffer(dynamic.agent.state_sizes, budget_mib=1)
    rewards = -terms.teacher_ce.float()
    for _ in range(4):
        buffer.add(states, rewards, torch.Generator())
    # The agent itself cannot learn, so that the factors have to.
    algorithm = PolicyGradient(dynamic.agent)
    algorithm.parameters = [dynamic.agent.mixing]
    algorithm.optimizer = torch.optim.SGD(algorithm.parameters, lr=1.0)
    for _ in range(50):
        algorithm.update(buffer)
    factors = dict(zip(dynamic.agent.parts, dynamic.agent.factors.tolist()))
    assert factors['confidence'] == max(factors.values())
    assert factors['confidence'] > 0.5
    assert sum(factors.values()) == pytest.approx(1)


def test_a_teacher_with_no_confidence_at_all(make_terms, make_spec):
    """c = 0 has no logarithm, but weights and gradients stay finite."""
    terms = make_terms(teachers=3)
    dynamic = make_weighting(make_spec, terms, mixing='dynamic')
    states = [s.clone() for s in dynamic.state(terms)]
    states[0][:, -3] = 1e4
    dynamic.agent.requires_grad_(True)
    logit, _ = dynamic.agent(states)
    (logit.exp() * torch.arange(3)).sum().backward()
    assert torch.isfinite(logit).all()
    gradients = [p.grad for p in dynamic.agent.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(mixing='learned'), "must be 'fixed' or 'dynamic'"),
        (dict(mixing='dynamic', parts=('confidence', 'divergence')), "needs 'agent' and another"),
        (dict(mixing='dynamic', parts=('agent',)), "needs 'agent' and another"),
        (
            dict(mixing='dynamic', state=dict(gap=False)),
            'leave `performance`, `cross_entropy` and `gap`',
        ),
    ],
)
def test_bad_arguments(make_terms, make_spec, kwargs, message):
    with pytest.raises(InputError, match=message):
        MTKDRL(make_spec(make_terms()), **kwargs)


def test_equal_factors_stay_equal_where_they_are_not_learned(make_terms, make_spec):
    terms = make_terms()
    outside = make_weighting(make_spec, terms, parts=PARTS)
    through = make_weighting(make_spec, terms, parts=PARTS, policy='fused')
    through.agent.agent.load_state_dict(outside.agent.state_dict())
    torch.testing.assert_close(through(terms).logit, outside(terms).logit)
    torch.testing.assert_close(through(terms).feature, outside(terms).feature)
    assert {name.split('.')[0] for name, _ in through.agent.named_parameters()} == {'agent'}
    assert 'mixing' not in through.agent.state_dict()


@pytest.mark.parametrize('chosen', [dict(parts=('agent',)), dict(state=dict(gap=False))])
def test_training_through_the_fusion_needs_the_parts(make_terms, make_spec, chosen):
    with pytest.raises(InputError, match="`policy='fused'`"):
        MTKDRL(make_spec(make_terms()), policy='fused', **chosen)
