# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Interleaved rounds of training steps, and ratios within them."""

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mtkdrl_mm.rl import RolloutBuffer

from .batch_feed import BatchFeed

Batch = Any


@dataclass
class Variant:
    """One of the interleaved measurements.

    Attributes:
        step (Callable): Runs a training step on a batch.
        batches (Sequence): Batches in memory, on which the steps run in turn.
        steps_per_round (int): Steps of a round. Defaults to 1.
        update (Callable, optional): Updates the agent from the steps since the
            last update. Defaults to None.
        kept (float): Share of an epoch's images that an update uses. Defaults
            to 1.
        buffer (RolloutBuffer, optional): The agent's. Defaults to None.
        feed (BatchFeed, optional): Loads batches, for :func:`time_loading`.
            Defaults to None.
        step_seconds (list[float]): Seconds per step, one entry per round.
        update_seconds (list[float]): Seconds per step of the agent's updates,
            one entry per update.
        loading_seconds (list[float]): Seconds per step with the loading of its
            batch, one entry per round of :func:`time_loading`.
    """

    step: Callable[[Batch], None]
    batches: Sequence[Batch]
    steps_per_round: int = 1
    update: Callable[[], None] | None = None
    kept: float = 1.0
    buffer: RolloutBuffer | None = None
    feed: BatchFeed | None = None
    step_seconds: list[float] = field(default_factory=list)
    update_seconds: list[float] = field(default_factory=list)
    loading_seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._turn = itertools.cycle(self.batches)

    def run(self) -> None:
        """Run the step on the next batch in memory."""
        self.step(next(self._turn))

    @property
    def update_share(self) -> float:
        """Median seconds per step of the agent's updates."""
        return statistics.median(self.update_seconds) if self.update_seconds else 0.0

    @property
    def totals(self) -> list[float]:
        """Seconds per step with its share of the agent's updates, one entry per round."""
        return [seconds + self.update_share for seconds in self.step_seconds]

    @property
    def loading_totals(self) -> list[float]:
        """The same with the loading of the batches."""
        return [seconds + self.update_share for seconds in self.loading_seconds]


def median_ratio(values: Sequence[float], references: Sequence[float]) -> float:
    """Median of the ratios within each round, where the load on the machine was the same.

    Args:
        values (Sequence[float]): One number per round.
        references (Sequence[float]): The reference's, of the same rounds.

    Example:
        >>> from mtkdrl_mm.benchmark import median_ratio
        >>> median_ratio([2.0, 20.0, 3.0], [1.0, 10.0, 2.0])
        2.0
    """
    return statistics.median(v / r for v, r in zip(values, references, strict=True))


def time_rounds(
    variants: Mapping[str, Variant],
    rounds: int,
    device: str,
    warmup: int = 3,
    update_rounds: int = 8,
) -> None:
    """Time the steps of all variants in interleaved rounds, on batches in memory.

    Args:
        variants (Mapping[str, Variant]): The variants, which get the times.
        rounds (int): Number of timed rounds.
        device (str): Where the steps run.
        warmup (int): Rounds before; at least 1. Defaults to 3.
        update_rounds (int): Rounds between timed updates of the agent. Defaults
            to 8.
    """
    for variant in variants.values():
        for _ in range(max(1, warmup) * variant.steps_per_round):
            variant.run()
        if variant.update is not None:
            variant.update()
    waiting = 0  # rounds since the last update
    for number in range(rounds):
        order = _rotated(variants, number)
        for variant in order:
            seconds = _timed(variant.run, device, variant.steps_per_round)
            variant.step_seconds.append(seconds)
        waiting += 1
        if waiting == update_rounds or number == rounds - 1:
            # A last, shorter interval counts only if there was no other.
            if waiting == update_rounds or rounds < update_rounds:
                for variant in order:
                    _time_update(variant, waiting, device)
            waiting = 0


def time_loading(variants: Mapping[str, Variant], rounds: int, device: str, steps: int) -> None:
    """Time the steps of all variants with the loading of their batches, in interleaved rounds.

    In its turn a variant starts its data workers, which load as far ahead as
    they may. Then the time runs until the steps are done and the workers are as
    far ahead as before: as many batches are loaded as used, in parallel.

    Args:
        variants (Mapping[str, Variant]): The variants with a ``feed``, which get
            the times.
        rounds (int): Number of timed rounds.
        device (str): Where the steps run.
        steps (int): Steps of a turn.
    """
    for number in range(rounds):
        for variant in _rotated(variants, number):
            assert variant.feed is not None
            with variant.feed as feed:
                feed.wait()

                def turn(variant: Variant = variant, feed: BatchFeed = feed) -> None:
                    for _ in range(steps):
                        variant.step(next(feed))
                    synchronise(device)
                    feed.wait()

                variant.loading_seconds.append(_timed(turn, device) / steps)


def _rotated(variants: Mapping[str, Variant], number: int) -> list[Variant]:
    """The variants, in every round from another one on: the order gives no advantage."""
    found = list(variants.values())
    shift = number % len(found)
    return found[shift:] + found[:shift]


def _timed(action: Callable[[], None], device: str, count: int = 1) -> float:
    """Mean seconds of an action over a number of consecutive calls."""
    gc.collect()
    synchronise(device)
    start = time.perf_counter()
    for _ in range(count):
        action()
    synchronise(device)
    return (time.perf_counter() - start) / count


def _time_update(variant: Variant, rounds: int, device: str) -> None:
    """Time an update of the agent from the steps of the last rounds."""
    if variant.update is not None:
        seconds = _timed(variant.update, device)
        steps = rounds * variant.steps_per_round
        variant.update_seconds.append(seconds / steps * variant.kept)


def synchronise(device: str) -> None:
    """Wait until a device has finished its work.

    Args:
        device (str): For example 'cpu' or 'cuda:0'.
    """
    if device.startswith('cuda'):
        torch.cuda.synchronize()
