# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Random numbers as a function of the run's seed and the position in the training."""

import random
from itertools import combinations

import numpy as np
import pytest
import torch

from mtkdrl_mm.utils.seeding import derive_seed, seed_everything, seeded, seeded_iterator


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def draw_with(seed):
    with seeded(seed):
        return draw()


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        ((0, 'rollout'), 8495763147815708772),
        ((0, 'rollout', 100, 1), 3940180817145041614),
        ((0, 'step', 0, 0), 951360957225752591),
        ((2025, 'augmentation', 49999, 239), 6478163275080389694),
    ],
)
def test_derived_seeds_are_the_same_everywhere(arguments, expected):
    assert derive_seed(*arguments) == expected
    # Positions often come as numbers of NumPy or torch.
    seed, stream, *position = arguments
    assert derive_seed(np.int64(seed), stream, *np.array(position, dtype=int)) == expected
    assert derive_seed(seed, stream, *map(torch.tensor, position)) == expected


def test_streams_and_positions_have_distinct_seeds():
    arguments = [
        (0, 'a'), (1, 'a'), (-1, 'a'), (0, 'b'), (0, 'ab'), (0, 'a', 0), (0, 'a', 0, 0),
        (0, 'a', 1), (0, 'a', -1), (0, 'a', 1, 2), (0, 'a', 2, 1), (0, 'a', 12), (1, 'a', 0),
        (0, 'a', 2**32), (0, 'a', 2**64), (2**31, 'a'),
    ]  # fmt: skip
    seeds = [derive_seed(*a) for a in arguments]
    assert len(set(seeds)) == len(arguments)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # A grid of seeds, iterations and processes, where sums of multiples would collide.
    grid = {
        derive_seed(seed, 'rollout', iteration, rank)
        for seed in range(10)
        for iteration in range(500)
        for rank in range(8)
    }
    assert len(grid) == 10 * 500 * 8


def test_one_seed_gives_the_same_numbers_in_all_three_generators():
    assert draw_with(7) == draw_with(7)
    seed_everything(7)
    assert draw() == draw_with(7)


def test_the_three_generators_draw_different_numbers():
    assert len(set(draw_with(7))) == 3


def test_every_seed_gives_other_numbers_in_all_three_generators():
    for a, b in combinations((0, 1, 2, 2**31, 2**32, 2**63 - 1), 2):
        for x, y in zip(draw_with(a), draw_with(b)):
            assert x != y, (a, b)


def test_neighbouring_positions_are_not_correlated():
    values = torch.tensor([draw_with(derive_seed(0, 'step', 0, k))[2] for k in range(500)])
    assert abs(values.mean() - 0.5) < 0.06
    assert abs(torch.corrcoef(torch.stack([values[:-1], values[1:]]))[0, 1]) < 0.15


def test_host_generators_go_on_as_if_nothing_had_been():
    seed_everything(5)
    expected = [draw() for _ in range(3)]
    seed_everything(5)
    actual = [draw()]
    with seeded(1):
        draw()
    actual.append(draw())
    with pytest.raises(KeyError), seeded(2):
        draw()
        raise KeyError
    actual.append(draw())
    assert actual == expected


def test_an_iteration_draws_from_generators_of_its_own():
    def draws():
        for _ in range(3):
            yield draw()

    expected = list(seeded_iterator(draws(), 4))
    assert len(set(expected)) == 3 and expected[0] == draw_with(4)
    seed_everything(5)
    outside = [draw() for _ in range(3)]
    seed_everything(5)
    both = [(inside, draw()) for inside in seeded_iterator(draws(), 4)]
    assert both == list(zip(expected, outside))
