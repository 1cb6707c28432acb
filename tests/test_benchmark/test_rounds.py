# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Interleaved rounds: what is timed, in which order, and what counts."""

import pytest

from mtkdrl_mm.benchmark import Variant, median_ratio, rounds, time_loading, time_rounds


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when it is told to; returns what has happened, in order."""

    class Clock:
        now = 0.0
        events: list[str] = []

        def work(self, name, seconds):
            self.events.append(name)
            self.now += seconds

    clock = Clock()
    clock.events = []
    monkeypatch.setattr(rounds.time, 'perf_counter', lambda: clock.now)
    return clock


def variant(clock, name, seconds, **settings):
    return Variant(lambda batch: clock.work(f'{name}{batch}', seconds), [0, 1], **settings)


def test_ratios_are_taken_within_a_round():
    # A load on the machine makes the second round ten times slower.
    assert median_ratio([2.0, 30.0, 2.5], [1.0, 10.0, 1.0]) == 2.5
    with pytest.raises(ValueError):
        median_ratio([1.0, 2.0], [1.0])


def test_seconds_are_those_of_a_step(clock):
    variants = dict(
        a=variant(clock, 'a', 1.0),
        b=variant(clock, 'b', 4.0, steps_per_round=3, update=lambda: clock.work('update', 24.0)),
    )
    time_rounds(variants, rounds=4, device='cpu', warmup=2, update_rounds=2)
    assert variants['a'].step_seconds == [1.0] * 4
    assert variants['b'].step_seconds == [4.0] * 4
    # An update after 2 rounds of 3 steps.
    assert variants['b'].update_seconds == [4.0, 4.0]
    assert variants['a'].totals == [1.0] * 4 and variants['b'].totals == [8.0] * 4


def test_turns_rotate_and_batches_take_turns(clock):
    variants = {name: variant(clock, name, 1.0) for name in 'abc'}
    time_rounds(variants, rounds=3, device='cpu', warmup=1)
    assert clock.events[:3] == ['a0', 'b0', 'c0']
    assert clock.events[3:] == ['a1', 'b1', 'c1', 'b0', 'c0', 'a0', 'c1', 'a1', 'b1']


@pytest.mark.parametrize(
    ('count', 'expected'),
    [
        # (rounds, updates per step): a last, shorter interval counts only if there was no other.
        (8, [2.0, 2.0]),
        (7, [2.0]),
        (3, [8 / 3]),
    ],
)
def test_what_updates_count(clock, count, expected):
    variants = dict(a=variant(clock, 'a', 1.0, update=lambda: clock.work('update', 8.0)))
    time_rounds(variants, rounds=count, device='cpu', update_rounds=4)
    assert variants['a'].update_seconds == pytest.approx(expected)


def test_an_update_from_a_part_of_an_epoch_costs_a_part(clock):
    one = variant(clock, 'a', 1.0, update=lambda: clock.work('update', 8.0), kept=0.25)
    time_rounds(dict(a=one), rounds=4, device='cpu', update_rounds=4)
    assert one.update_share == 0.5 and one.totals == [1.5] * 4


class Feed:
    """A loader that needs 3 seconds per batch beside the steps, and has 2 batches ahead."""

    def __init__(self, clock):
        self.clock, self.entered, self.open = clock, 0, False
        self.ready = 0.0

    def __enter__(self):
        self.entered, self.open = self.entered + 1, True
        self.taken, self.ready = 0, self.clock.now
        return self

    def __exit__(self, *_):
        self.open = False

    def __next__(self):
        self.ready = max(self.ready, self.clock.now) + 3.0
        self.taken += 1
        return self.taken

    def wait(self):
        assert self.open
        self.clock.now = max(self.clock.now, self.ready)


@pytest.mark.parametrize(('seconds', 'expected'), [(1.0, 3.0), (5.0, 5.0)])
def test_with_loading_as_much_is_loaded_as_used(clock, seconds, expected):
    """The slower of step and loading decides, though batches are ahead at the start."""
    variants = {name: variant(clock, name, seconds, feed=Feed(clock)) for name in 'ab'}
    time_loading(variants, rounds=2, device='cpu', steps=4)
    for one in variants.values():
        assert one.loading_seconds == [expected] * 2
        assert one.feed.entered == 2 and not one.feed.open
    assert clock.events[:4] == ['a1', 'a2', 'a3', 'a4']
