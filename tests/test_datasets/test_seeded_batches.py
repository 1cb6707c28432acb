# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Batches whose augmentations depend on their place alone."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from mtkdrl_mm.datasets import SeededBatchSampler, seed_batches, seeded_batches


class Noise(Dataset):
    """Every image is its index and a draw from each of the three generators."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.tensor([index, random.random(), np.random.rand(), float(torch.rand(()))])


def loader(workers=0, batch_size=4, persistent=False, **kwargs):
    dataset = Noise()
    sampler = SeededBatchSampler(SequentialSampler(dataset), batch_size, **kwargs)
    dataloader = DataLoader(
        dataset, batch_sampler=sampler, num_workers=workers, persistent_workers=persistent
    )
    seed_batches(dataloader)
    return dataloader


def epoch(dataloader, number, start=0, seed=0):
    dataloader.batch_sampler.set_position(seed, number, start)
    return [batch.clone() for batch in dataloader]


def same(first, second):
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second))


def noise(batches):
    return torch.cat([batch[:, 1:] for batch in batches])


def test_same_place_same_images():
    assert same(epoch(loader(), 3), epoch(loader(), 3))


def test_images_differ_by_epoch_number_seed_rank_and_within_the_batch(monkeypatch):
    dataloader = loader()
    draws = [noise(epoch(dataloader, 0)), noise(epoch(dataloader, 1))]
    draws.append(noise(epoch(dataloader, 0, seed=1)))
    monkeypatch.setattr(seeded_batches, 'get_rank', lambda: 1)
    draws.append(noise(epoch(dataloader, 0)))
    values = torch.cat(draws)
    assert values.shape == (4 * 12, 3)
    assert len(values.double().flatten().unique()) == values.numel()


@pytest.mark.parametrize('persistent', [False, True])
def test_number_and_kind_of_workers_do_not_matter(persistent):
    plain, workers = loader(), loader(workers=2, persistent=persistent)
    for number in range(2):
        assert same(epoch(plain, number), epoch(workers, number))


@pytest.mark.parametrize('workers', [0, 2])
def test_start_in_mid_epoch_gives_the_rest_of_it(workers):
    whole = epoch(loader(), 4)
    rest = epoch(loader(workers), 4, start=1)
    assert len(whole) == 3 and same(rest, whole[1:])
    assert epoch(loader(workers), 4, start=3) == []


def test_start_in_mid_epoch_of_a_shuffled_epoch():
    dataset = Noise()

    def shuffled(start):
        sampler = RandomSampler(dataset, generator=torch.Generator().manual_seed(1))
        dataloader = DataLoader(dataset, batch_sampler=SeededBatchSampler(sampler, 4))
        seed_batches(dataloader)
        return epoch(dataloader, 0, start)

    assert same(shuffled(1), shuffled(0)[1:])


def test_generators_of_the_training_process_are_not_touched():
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    dataloader = loader()
    dataloader.batch_sampler.set_position(0, 0)
    iterator = iter(dataloader)
    torch.set_rng_state(states[2])  # torch draws a base seed for workers when it starts
    list(iterator)
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize(('drop_last', 'sizes'), [(False, [5, 5, 2]), (True, [5, 5])])
def test_last_batch(drop_last, sizes):
    dataloader = loader(batch_size=5, drop_last=drop_last)
    assert [len(batch) for batch in epoch(dataloader, 0)] == sizes
    assert len(dataloader) == len(sizes)
    # the length is that of the whole epoch, wherever one starts
    dataloader.batch_sampler.set_position(0, 0, 1)
    assert len(dataloader) == len(sizes)


def test_batches_of_another_batch_sampler():
    class Backwards(BatchSampler):
        def __iter__(self):
            yield from reversed(list(super().__iter__()))

    dataloader = loader(inner=dict(type=Backwards, drop_last=True), batch_size=5)
    batches = epoch(dataloader, 0)
    assert [batch[0, 0].item() for batch in batches] == [5, 0]
    assert len(dataloader) == 2
    assert same(epoch(dataloader, 0, start=1), batches[1:])


def test_indices_without_a_place_are_fetched_as_ever():
    dataset = loader().dataset
    seeds = []
    for _ in range(2):
        torch.manual_seed(3)
        seeds.append(dataset.__getitems__([4, 5])[1][3].item())
    torch.manual_seed(3)
    torch.rand(())
    assert seeds == [torch.rand(()).item()] * 2


def test_registered_for_configs():
    from mmengine.registry import DATA_SAMPLERS

    sampler = DATA_SAMPLERS.build(
        dict(
            type='mtkdrl_mm.SeededBatchSampler',
            sampler=SequentialSampler(range(10)),
            batch_size=3,
        )
    )
    assert list(sampler) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
