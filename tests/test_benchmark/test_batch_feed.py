# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A loader's batches without end."""

import itertools
import multiprocessing

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mtkdrl_mm.benchmark import BatchFeed, batch_feed


class Numbers(Dataset):
    """Counts what is loaded, in all processes."""

    def __init__(self, bad=None):
        self.loaded = multiprocessing.Value('q', 0)
        self.bad = bad

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == self.bad:
            raise KeyError('a damaged image')
        with self.loaded.get_lock():
            self.loaded.value += 1
        return index


class Endless:
    """All numbers in order, again and again; mmengine's infinite sampler cannot start anew."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return itertools.cycle(range(self.count))


def feed_of(data, workers):
    sampler = Endless(len(data))
    return BatchFeed(DataLoader(data, batch_size=2, sampler=sampler, num_workers=workers))


@pytest.mark.parametrize('workers', [0, 2])
def test_starts_anew_in_every_context_and_never_ends(workers):
    feed = feed_of(Numbers(), workers)
    # Another test's loader may not have been collected yet.
    others = set(multiprocessing.active_children())
    for _ in range(2):
        with feed:
            batches = [next(feed).tolist() for _ in range(4)]
            assert len(set(multiprocessing.active_children()) - others) == workers
        assert batches == [[0, 1], [2, 3], [4, 5], [0, 1]]
        assert set(multiprocessing.active_children()) <= others


def test_waits_until_the_workers_are_as_far_ahead_as_they_may_be():
    data = Numbers()
    with feed_of(data, 2) as feed:
        for taken in range(4):
            feed.wait()
            # Two workers load two batches of two images each.
            assert data.loaded.value == 2 * (taken + 4)
            next(feed)


def test_without_workers_nothing_is_loaded_ahead():
    data = Numbers()
    with feed_of(data, 0) as feed:
        feed.wait()
        assert data.loaded.value == 0
        assert torch.equal(next(feed), torch.tensor([0, 1]))
        feed.wait()
        assert data.loaded.value == 2


def test_what_a_worker_raises_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(batch_feed, '_PATIENCE', 0.1)
    with feed_of(Numbers(bad=1), 1) as feed, pytest.raises(KeyError, match='a damaged image'):
        feed.wait()
