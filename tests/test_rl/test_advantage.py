# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""From rewards to advantages."""

import pytest
import torch

from mtkdrl_mm.rl import BatchZScoreAdvantage, MinMaxAdvantage, StandardizedAdvantage


def random_rewards(images=50, teachers=4):
    return torch.randn(images, teachers) * torch.logspace(-3, 3, images)[:, None] - 5


def test_min_max_sums_to_zero_within_one():
    advantage = MinMaxAdvantage()(random_rewards())
    torch.testing.assert_close(advantage.sum(dim=1), torch.zeros(50), rtol=0, atol=1e-5)
    assert advantage.abs().max() < 1
    # Best minus worst is 1, whatever the scale of the image's rewards.
    spread = advantage.amax(dim=1) - advantage.amin(dim=1)
    torch.testing.assert_close(spread, torch.ones(50), rtol=0, atol=1e-3)


def test_min_max_closed_form():
    rewards = torch.tensor([[1.0, 3.0, 2.0, 2.0], [0.0, -4.0, -4.0, -4.0]])
    expected = torch.tensor([[-0.5, 0.5, 0.0, 0.0], [0.75, -0.25, -0.25, -0.25]])
    torch.testing.assert_close(MinMaxAdvantage()(rewards), expected)


def test_min_max_ignores_shift_and_scale():
    rewards = torch.randn(20, 3, dtype=torch.float64)
    torch.testing.assert_close(
        MinMaxAdvantage()(7 * rewards - 100), MinMaxAdvantage()(rewards), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize('kind', [MinMaxAdvantage, StandardizedAdvantage])
@pytest.mark.parametrize('shape', [(5, 3), (5, 1)])
def test_zero_where_all_are_equal_and_for_a_single_teacher(kind, shape):
    advantage = kind()
    rewards = torch.arange(5.0)[:, None].expand(shape) * 3.7
    advantage.observe(rewards)
    assert torch.equal(advantage(rewards), torch.zeros(shape))


def test_standardized_closed_form():
    advantage = StandardizedAdvantage(momentum=0.25, clip=100)
    first, second = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 6.0], [5.0, 5.0]])
    advantage.observe(first)  # deviations of 1
    torch.testing.assert_close(advantage(first), torch.tensor([[-1.0, 1.0]]))
    advantage.observe(second)  # mean square (9 + 9 + 0 + 0) / 4
    sigma = (0.75 * 1 + 0.25 * 4.5) ** 0.5
    expected = torch.tensor([[-3.0, 3.0], [0.0, 0.0]]) / sigma
    torch.testing.assert_close(advantage(second), expected)


def test_standardized_sums_to_zero_and_keeps_the_size_of_differences():
    rewards = torch.tensor([[0.0, 0.001, 0.002], [0.0, 1.0, 2.0]])
    advantage = StandardizedAdvantage()
    advantage.observe(rewards)
    values = advantage(rewards)
    torch.testing.assert_close(values.sum(dim=1), torch.zeros(2))
    torch.testing.assert_close(values[0] * 1000, values[1])


def test_standardized_clips():
    advantage = StandardizedAdvantage(clip=2)
    advantage.observe(torch.tensor([[-1.0, 1.0]]))
    assert torch.equal(advantage(torch.tensor([[-9.0, 9.0]])), torch.tensor([[-2.0, 2.0]]))


def test_standardized_goes_on_from_its_saved_state():
    one, other = StandardizedAdvantage(), StandardizedAdvantage()
    one.observe(torch.randn(8, 3))
    other.load_state_dict(one.state_dict())
    more = torch.randn(8, 3)
    one.observe(more)
    other.observe(more)
    assert torch.equal(one(more), other(more))
    assert one.variance == other.variance > 0


@pytest.mark.parametrize('momentum', [0, 1.5, -0.1])
def test_standardized_refuses_a_momentum_out_of_range(momentum):
    with pytest.raises(ValueError, match=r'`momentum` must be in \(0, 1\]'):
        StandardizedAdvantage(momentum=momentum)


def test_batch_z_scores_closed_form():
    """Mean 2, deviation sqrt(10/3): below the mean 0, above it at most 1."""
    rewards = torch.tensor([[2.0, 3.0], [-1.0, 1.0], [2.0, 5.0]])
    scores = (rewards - 2) / (10 / 3) ** 0.5
    expected = torch.tensor([[0.0, scores[0, 1]], [0.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(BatchZScoreAdvantage().normalize_step(rewards), expected)
    assert torch.equal(BatchZScoreAdvantage()(expected), expected)


def test_batch_z_scores_of_equal_rewards_are_zero():
    assert torch.equal(
        BatchZScoreAdvantage().normalize_step(torch.full((5, 3), 0.1)), torch.zeros(5, 3)
    )
