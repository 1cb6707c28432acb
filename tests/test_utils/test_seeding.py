# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Randomness as a function of where the training is."""

import random
from itertools import combinations

import numpy as np
import pytest
import torch

from mtkdrl_mm.utils.seeding import seed_everything, seeded


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def at(*position):
    with seeded(*position):
        return draw()


def test_same_position_same_numbers_in_all_three_generators():
    assert at(1, 2, 3) == at(1, 2, 3)
    seed_everything(1, 2, 3)
    assert draw() == at(1, 2, 3)
    assert len(set(at(1, 2, 3))) == 3


def test_every_other_position_gives_other_numbers():
    positions = [
        (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (2**31, 0, 0),
        (0, 0), (0, 0, 0, 0), (1, 0), (1, 0, 0, 0), (0, 0, 1, 0),
    ]  # fmt: skip
    for a, b in combinations(positions, 2):
        for x, y in zip(at(*a), at(*b)):
            assert x != y, (a, b)


def test_neighbouring_positions_are_not_correlated():
    values = torch.tensor([at(0, 0, k)[2] for k in range(500)])
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
