# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Standardisation of the states."""

import torch

from mtkdrl_mm.models.agents.state_normalizer import StateNormalizer
from mtkdrl_mm.rl import RolloutBuffer

SIZES = [2, 3]


def buffer_of(*batches):
    buffer = RolloutBuffer(SIZES, 1)
    for batch in batches:
        buffer.add(batch.split(SIZES, dim=1), torch.zeros(len(batch), 2), torch.Generator())
    return buffer


def halves(*size):
    """Numbers that half precision represents exactly."""
    return torch.randint(-40, 40, size).float() / 4


def test_first_buffer_counts_fully_and_is_standardised():
    batch = halves(50, 5) * torch.tensor([1.0, 2.0, 8.0, 0.5, 1.0]) + 3
    normalizer = StateNormalizer(SIZES, clip=100)
    normalizer.update(buffer_of(batch[:20], batch[20:]))
    torch.testing.assert_close(normalizer.mean, batch.mean(dim=0))
    torch.testing.assert_close(normalizer.variance, batch.var(dim=0, unbiased=False))
    states = normalizer(batch.split(SIZES, dim=1))
    assert [state.shape for state in states] == [(50, 2), (50, 3)]
    flat = torch.cat(states, dim=1)
    torch.testing.assert_close(flat.mean(dim=0), torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(flat.std(dim=0, unbiased=False), torch.ones(5))


def test_later_buffers_move_it_by_the_momentum():
    first, second = halves(30, 5), halves(40, 5) + 2
    normalizer = StateNormalizer(SIZES, momentum=0.25)
    normalizer.update(buffer_of(first))
    normalizer.update(buffer_of(second))
    torch.testing.assert_close(normalizer.mean, 0.75 * first.mean(0) + 0.25 * second.mean(0))
    torch.testing.assert_close(
        normalizer.variance,
        0.75 * first.var(0, unbiased=False) + 0.25 * second.var(0, unbiased=False),
    )


def test_clipped_and_finite_for_a_constant_entry():
    batch = halves(30, 5)
    batch[:, 3] = 1.5
    normalizer = StateNormalizer(SIZES, clip=2)
    normalizer.update(buffer_of(batch))
    far = torch.tensor([[1e6, -1e6, 0.0, 1.5, 0.0]])
    flat = torch.cat(normalizer(far.split(SIZES, dim=1)), dim=1)
    assert flat[0, 0] == 2 and flat[0, 1] == -2 and flat[0, 3] == 0


def test_variance_of_large_numbers_does_not_cancel():
    batch = halves(100, 5) + 1000
    normalizer = StateNormalizer(SIZES)
    normalizer.update(buffer_of(batch))
    exact = batch.half().double().var(dim=0, unbiased=False).float()
    torch.testing.assert_close(normalizer.variance, exact)


def test_unchanged_before_the_first_update_and_by_forward():
    normalizer = StateNormalizer(SIZES).train()
    states = [torch.ones(4, 2), torch.ones(4, 3) * 2]
    for _ in range(2):
        for before, after in zip(states, normalizer(states)):
            torch.testing.assert_close(before, after, rtol=0, atol=1e-5)
    assert normalizer.count == 0


def test_saved_with_the_agent():
    normalizer = StateNormalizer(SIZES)
    normalizer.update(buffer_of(halves(10, 5)))
    other = StateNormalizer(SIZES)
    other.load_state_dict(normalizer.state_dict())
    more = buffer_of(halves(10, 5) + 5)
    normalizer.update(more)
    other.update(more)
    assert torch.equal(normalizer.mean, other.mean)
    assert torch.equal(normalizer.variance, other.variance)
