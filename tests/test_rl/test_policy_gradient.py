# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""How the agent learns."""

import pytest
import torch
from torch import nn

from mtkdrl_mm.models import MTKDRL, JointAgent, PerTeacherAgent, PoolSpec
from mtkdrl_mm.rl import (
    LabelProbabilityReward,
    MinMaxAdvantage,
    PolicyGradient,
    RolloutBuffer,
    StandardizedAdvantage,
)
from mtkdrl_mm.structures import NetworkOutput, StepTerms
from mtkdrl_mm.utils import InputError


class TableAgent(nn.Module):
    """Two tables of scores, one row for every image."""

    def __init__(self, images, teachers, dtype=torch.float64):
        super().__init__()
        self.logit = nn.Parameter(torch.randn(images, teachers, dtype=dtype))
        self.feature = nn.Parameter(torch.randn(images, teachers, dtype=dtype))

    def forward(self, states):
        rows = states[0][:, 0].long()
        return self.logit[rows].log_softmax(1), self.feature[rows].log_softmax(1)

    def update_state_stats(self, buffer):
        self.observed = len(buffer)


def numbered_states(images):
    return [torch.arange(images).float()[:, None]]


def buffer_of(rewards, batch=None):
    buffer = RolloutBuffer([1] * rewards.shape[1], 1)
    states = numbered_states(len(rewards)) * rewards.shape[1]
    for start in range(0, len(rewards), batch or len(rewards)):
        rows = slice(start, start + (batch or len(rewards)))
        buffer.add([s[rows] for s in states], rewards[rows], torch.Generator())
    return buffer


@pytest.mark.parametrize('advantage', [MinMaxAdvantage, StandardizedAdvantage])
def test_gradient_is_that_of_the_softmax_policy(advantage):
    agent = TableAgent(6, 4)
    algorithm = PolicyGradient(agent, entropy_weight=0.0, advantage=advantage())
    agent.requires_grad_(True)
    rewards = torch.randn(6, 4, dtype=torch.float64)
    algorithm.advantage.observe(rewards)
    algorithm.loss(numbered_states(6), rewards).backward()
    values = algorithm.advantage(rewards)
    for scores in (agent.logit, agent.feature):
        policy = scores.softmax(dim=1)
        # d/ds_k of sum_m A_m pi_m is pi_k (A_k - sum_m A_m pi_m); the loss is minus its mean.
        expected = -policy * (values - (values * policy).sum(dim=1, keepdim=True)) / 6
        torch.testing.assert_close(scores.grad, expected.detach())
        assert scores.grad.abs().max() > 1e-3


def test_loss_is_minus_the_expected_advantage():
    agent = TableAgent(1, 3)
    with torch.no_grad():
        agent.logit.copy_(torch.tensor([[2.0, 1.0, 1.0]]).log())
        agent.feature.copy_(torch.tensor([[1.0, 1.0, 2.0]]).log())
    algorithm = PolicyGradient(agent, entropy_weight=0.0)
    rewards = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)  # advantages 2/3, -1/3, -1/3
    loss = algorithm.loss(numbered_states(1), rewards)
    expected = -(2 / 3 * (0.5 + 0.25) - 1 / 3 * (0.5 + 0.75))
    torch.testing.assert_close(loss.item(), expected)


def test_update_is_one_step_of_the_optimizer_per_rollout_step():
    rewards = torch.randn(6, 3)
    agent = TableAgent(6, 3, dtype=torch.float32)
    before = agent.logit.detach().clone()
    algorithm = PolicyGradient(agent, dict(type='SGD', lr=0.5), entropy_weight=0.0)
    algorithm.update(buffer_of(rewards, batch=2))
    policy, values = before.softmax(1), algorithm.advantage(rewards)
    gradient = -policy * (values - (values * policy).sum(dim=1, keepdim=True)) / 2
    torch.testing.assert_close(agent.logit.detach(), before - 0.5 * gradient)
    assert agent.observed == 6 and algorithm.updates == 1


def test_advantage_learns_from_the_whole_buffer_before_the_first_step():
    rewards = torch.randn(6, 3)
    agent = TableAgent(6, 3, dtype=torch.float32)
    algorithm = PolicyGradient(agent, advantage=StandardizedAdvantage())
    algorithm.update(buffer_of(rewards, batch=2))
    expected = (rewards - rewards.mean(dim=1, keepdim=True)).square().mean().item()
    assert algorithm.advantage.variance == pytest.approx(expected)


def test_epochs_walk_through_the_buffer_again():
    rewards = torch.randn(1, 3)
    results = []
    for updates, epochs in ((3, 1), (1, 3)):
        torch.manual_seed(1)
        agent = TableAgent(1, 3, dtype=torch.float32)
        algorithm = PolicyGradient(agent, epochs=epochs)
        for _ in range(updates):
            algorithm.update(buffer_of(rewards))
        results.append(agent.logit.detach())
    assert torch.equal(*results)


def test_parameters_need_gradients_only_during_an_update():
    agent = TableAgent(2, 3, dtype=torch.float32)
    algorithm = PolicyGradient(agent)
    for _ in range(2):
        assert not any(p.requires_grad for p in agent.parameters())
        assert all(p.grad is None for p in agent.parameters())
        algorithm.update(buffer_of(torch.randn(2, 3)))


def test_update_works_without_gradients_around_it():
    agent = TableAgent(2, 3, dtype=torch.float32)
    before = agent.logit.detach().clone()
    algorithm = PolicyGradient(agent)
    with torch.no_grad():
        algorithm.update(buffer_of(torch.randn(2, 3)))
    assert not torch.equal(agent.logit, before)


def test_gradient_norm_is_limited():
    agent = TableAgent(2, 3, dtype=torch.float32)
    before = torch.cat([p.detach().clone() for p in agent.parameters()])
    algorithm = PolicyGradient(agent, dict(type='SGD', lr=1.0), max_grad_norm=1e-3)
    algorithm.update(buffer_of(torch.randn(2, 3)))
    moved = torch.cat([p.detach() for p in agent.parameters()]) - before
    torch.testing.assert_close(moved.norm(), torch.tensor(1e-3), rtol=1e-3, atol=0)


def test_entropy_bonus_pulls_to_uniform_where_rewards_are_equal():
    uniform = torch.full((4, 3), 1 / 3)
    policies = {}
    for weight in (0.0, 0.5):
        torch.manual_seed(2)
        agent = TableAgent(4, 3, dtype=torch.float32)
        start = agent.logit.detach().softmax(1)
        algorithm = PolicyGradient(agent, dict(type='SGD', lr=4.0), entropy_weight=weight)
        for _ in range(60):
            algorithm.update(buffer_of(torch.full((4, 3), -2.5)))
        policies[weight] = agent.logit.detach().softmax(1)
    torch.testing.assert_close(policies[0.0], start)
    assert (start - uniform).abs().max() > 0.3
    torch.testing.assert_close(policies[0.5], uniform, rtol=0, atol=0.01)


def test_better_teachers_are_raised():
    agent = TableAgent(1, 3, dtype=torch.float32)
    before = agent(numbered_states(1))
    algorithm = PolicyGradient(agent)
    algorithm.update(buffer_of(torch.tensor([[0.0, 1.0, 0.0]])))
    for old, new in zip(before, agent(numbered_states(1))):
        assert new[0, 1] > old[0, 1]


def step_of(images, seed):
    """Images of two kinds; teacher 0 knows one kind, teacher 1 the other, 2 knows nothing."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.arange(images) % 2
    labels = torch.randint(4, (images,), generator=generator)
    right = 4.0 * nn.functional.one_hot(labels, 4)
    wrong = 4.0 * nn.functional.one_hot((labels + 1) % 4, 4)
    noise = torch.randn(images, 3, 4, generator=generator)
    first = kind[:, None] == 0
    logits = [torch.where(first, right, wrong), torch.where(first, wrong, right), 0 * right]
    teachers = []
    for m in range(3):
        embedding = torch.randn(images, 5, generator=generator)
        embedding[:, 0] = 2.0 * kind - 1  # tells the kind of the image
        teachers.append(NetworkOutput(logits[m] + noise[:, m], embedding))
    student = NetworkOutput(torch.randn(images, 4, generator=generator), None)
    terms = StepTerms(student, teachers, labels)
    terms.logit_loss = terms.teacher_ce.new_zeros(images, 3)
    terms.feature_loss = torch.zeros_like(terms.logit_loss)
    return terms, kind


@pytest.mark.parametrize('agent', [PerTeacherAgent, JointAgent])
@pytest.mark.parametrize('advantage', [MinMaxAdvantage, StandardizedAdvantage])
def test_agent_alone_learns_which_teacher_is_best_for_which_image(agent, advantage):
    spec = PoolSpec(('first', 'second', 'ignorant'), 4, (5, 5, 5), (None, None, None))
    weighting = MTKDRL(spec, agent=dict(type=agent.__name__), parts=('agent',))
    weighting.warming_up = False
    buffer = RolloutBuffer(weighting.agent.state_sizes, 1)
    algorithm = PolicyGradient(weighting.agent, advantage=advantage())
    for update in range(10):
        buffer.clear()
        for batch in range(20):
            terms, _ = step_of(32, seed=100 * update + batch)
            buffer.add(
                weighting(terms).states, LabelProbabilityReward()(terms, None), torch.Generator()
            )
        algorithm.update(buffer)
    terms, kind = step_of(400, seed=99_999)
    weights = weighting(terms)
    rows = torch.arange(400)
    for values in (weights.logit, weights.feature):
        assert values[rows, kind].mean() > 0.8
        for k in (0, 1):
            assert values[kind == k, k].mean() > 0.8


def test_goes_on_from_its_saved_state():
    def start():
        torch.manual_seed(3)
        agent = TableAgent(8, 3, dtype=torch.float32)
        algorithm = PolicyGradient(agent, advantage=StandardizedAdvantage())
        return agent, algorithm

    rewards = [torch.randn(8, 3) for _ in range(4)]
    agent, whole = start()
    for r in rewards:
        whole.update(buffer_of(r, batch=2))
    first_agent, first = start()
    for r in rewards[:2]:
        first.update(buffer_of(r, batch=2))
    second_agent, second = start()
    second_agent.load_state_dict(first_agent.state_dict())
    second.load_state_dict(first.state_dict())
    for r in rewards[2:]:
        second.update(buffer_of(r, batch=2))
    assert second.updates == whole.updates == 4
    assert torch.equal(agent.logit, second_agent.logit)
    assert torch.equal(agent.feature, second_agent.feature)


def test_order_of_the_mini_batches_depends_on_seed_and_update(monkeypatch):
    def orders(seed):
        algorithm = PolicyGradient(TableAgent(16, 3, dtype=torch.float32), seed=seed)
        seen = []

        def recording(states, rewards):
            seen.append(int(states[0][0]))
            return sum(log_probs.sum() for log_probs in algorithm.agent(states))

        monkeypatch.setattr(algorithm, 'loss', recording)
        for _ in range(2):
            algorithm.update(buffer_of(torch.zeros(16, 3), batch=1))
        return seen[:16], seen[16:]

    first, second = orders(0)
    assert sorted(first) == sorted(second) == list(range(16))
    assert first != second
    assert orders(0) == (first, second) and orders(50)[0] != first


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(epochs=0), '`epochs` must be at least 1'),
        (dict(entropy_weight=-0.1), '`entropy_weight` must be at least 0'),
        (dict(optimizer=dict(type='SDG', lr=1)), 'Unknown optimizer "SDG". Did you mean "SGD"'),
        (dict(optimizer=dict(lr=1)), 'The optimizer must be a dict with a `type`'),
        (dict(max_grad_norm=0.0), '`max_grad_norm` must be greater than 0'),
        (dict(optimizer=dict(type='SGD', lrr=1)), 'optimizer "SGD".*lrr'),
        (dict(optimizer=dict(type='SGD', lr=-1)), 'optimizer "SGD".*learning rate: -1'),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(InputError, match=message):
        PolicyGradient(TableAgent(2, 2), **kwargs)
