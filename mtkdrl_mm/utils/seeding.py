# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Randomness as a function of where the training is."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_everything(*position: int) -> None:
    """Seed Python, NumPy and torch (all devices) from a tuple of numbers.

    Args:
        *position (int): For example (seed, rank, iteration). Different tuples
            give independent streams.
    """
    words = _words(position)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


def _words(position: tuple[int, ...]) -> np.ndarray:
    # NumPy pads with zeros: without the length, (1, 2) and (1, 2, 0) were one stream.
    entropy = [len(position), *(abs(int(p)) for p in position)]
    return np.random.SeedSequence(entropy).generate_state(3)


def seed_host(*position: int) -> None:
    """Seed the host's generators alone, for data workers.

    Args:
        *position (int): See :func:`seed_everything`.
    """
    words = _words(position)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.default_generator.manual_seed(int(words[2]))


@contextmanager
def seeded(*position: int) -> Iterator[None]:
    """Seed for the length of a block and restore the host's generators after it.

    Args:
        *position (int): See :func:`seed_everything`.
    """
    saved = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_host(*position)
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        torch.set_rng_state(saved[2])
