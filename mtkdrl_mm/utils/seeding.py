# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Random numbers as a function of the run's seed and the position in the training.

Every use of random numbers has a named stream, whose seed follows from the name
and the position. A resumed training therefore needs no saved state of a
generator. Examples are ``'step'`` (dropout and mixup of a training step; the
position is process and iteration) and ``'augmentation'`` (the pipeline of one
image; the position is sample and view).
"""

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from mmengine.dist import get_rank

#: Version of the rule by which the seeds of a sample's augmentation follow from
#: (seed, sample, view). Stored outputs of teachers belong to one.
SEED_SCHEME = 1

Item = TypeVar('Item')


def derive_seed(seed: int, stream: str, *position: int) -> int:
    """Derive the seed of a named random stream at a position of the training.

    The seeds of two streams, or of two positions in a stream, are unrelated.
    They are the same on every machine and with every version of the libraries.

    Args:
        seed (int): The run's seed.
        stream (str): Name of what is drawn, for example ``'rollout'``.
        *position (int): Where it is drawn, for example (iteration, rank).
            (1, 2) and (1, 2, 0) are different positions.

    Returns:
        int: From 0 to 2**63 - 1, for ``torch.Generator.manual_seed`` and
        ``numpy.random.default_rng``.

    Example:
        >>> from mtkdrl_mm.utils.seeding import derive_seed
        >>> derive_seed(0, 'rollout', 100, 1)
        3940180817145041614
    """
    # int(): numpy's integers have another repr.
    key = (int(seed), stream, *map(int, position))
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], 'big') >> 1


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch (all devices).

    Args:
        seed (int): For example from :func:`derive_seed`.
    """
    _seed_python_and_numpy(seed)
    torch.manual_seed(derive_seed(seed, 'torch'))


def seed_step(seed: int, iteration: int) -> None:
    """Seed all generators for one training step of this process.

    What dropout, mixup and weightings draw in it then depends on these numbers
    alone.

    Args:
        seed (int): The run's seed.
        iteration (int): Number of the step.
    """
    seed_everything(derive_seed(seed, 'step', get_rank(), iteration))


def seed_host(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch's CPU, for data workers.

    Args:
        seed (int): For example from :func:`derive_seed`.
    """
    _seed_python_and_numpy(seed)
    torch.default_generator.manual_seed(derive_seed(seed, 'torch'))


def _seed_python_and_numpy(seed: int) -> None:
    # NumPy and torch have the same generator, which one seed would start alike.
    random.seed(derive_seed(seed, 'python'))
    np.random.seed(derive_seed(seed, 'numpy') % 2**32)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the host's generators within a context, and restore their state after it.

    Args:
        seed (int): For example from :func:`derive_seed`.
    """
    saved = _host_state()
    seed_host(seed)
    try:
        yield
    finally:
        _restore_host(saved)


def seeded_iterator(items: Iterable[Item], seed: int) -> Iterator[Item]:
    """Iterate with the host's generators in a state that only this iteration moves.

    What the iterable draws then depends on the seed alone, and the state around
    the iteration does not change.

    Args:
        items (Iterable): What is iterated.
        seed (int): For example from :func:`derive_seed`.

    Yields:
        Any: The items.
    """
    with seeded(seed):
        iterator = iter(items)
        state = _host_state()
    while True:
        outside = _host_state()
        _restore_host(state)
        try:
            item = next(iterator)
        except StopIteration:
            return
        finally:
            state = _host_state()
            _restore_host(outside)
        yield item


def _host_state() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _restore_host(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
