# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Views of batches, and exact positions for any number of processes."""

import itertools
import random

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmpretrain.datasets.samplers import RepeatAugSampler
from torch.utils.data import BatchSampler, Sampler, SequentialSampler

from mtkdrl_mm.datasets import SeededBatchSampler, seeded_batch_sampler
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.seeding import seed_host


def make(size=22, batch=4, rank=0, world=1, kind=DefaultSampler, shuffle=True, **kwargs):
    sampler = kind(range(size), shuffle=shuffle, seed=3)
    sampler.rank, sampler.world_size = rank, world
    if kind is DefaultSampler:
        sampler.num_samples = -(-size // world)
        sampler.total_size = sampler.num_samples * world
    return SeededBatchSampler(sampler, batch, **kwargs)


def epoch(sampler, number=0, done=0, seed=3):
    sampler.set_position(seed, number, done)
    return [list(batch) for batch in sampler]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


def step_images(world, batch, done=0, number=0, **kwargs):
    """The images of every step, those of all processes together in the order of one."""
    parts = [
        epoch(make(batch=batch, rank=r, world=world, **kwargs), number, done) for r in range(world)
    ]
    assert len({len(part) for part in parts}) == 1
    steps = []
    for batches in zip(*parts):
        rows = max(len(b) for b in batches)
        steps.append([b[k] for k in range(rows) for b in batches if k < len(b)])
    return steps


def test_indices_carry_seed_sample_and_epoch():
    (first, *_), *_ = epoch(make(), number=5, seed=8)
    assert first.seed_key == (8, int(first), 5)


def test_an_epoch_is_that_of_the_sampler():
    sampler = make()
    for number in range(2):
        batches = epoch(sampler, number)
        assert flat(batches) == list(sampler.sampler)
        assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 2]
    assert epoch(sampler, 0) != epoch(sampler, 1)


@pytest.mark.parametrize('drop_last', [False, True])
@pytest.mark.parametrize(('world', 'batch'), [(1, 4), (2, 3), (3, 2)])
def test_the_rest_of_an_epoch_is_its_end(world, batch, drop_last):
    whole = step_images(world, batch, drop_last=drop_last)
    for done in range(len(whole) + 1):
        rest = step_images(world, batch, done * world * batch, drop_last=drop_last)
        assert rest == whole[done:]
        sampler = make(world=world, batch=batch, drop_last=drop_last)
        assert sampler.steps_left(done * world * batch) == len(whole) - done
        assert len(sampler) == len(whole)


@pytest.mark.parametrize('before', [(1, 4), (1, 6), (2, 2), (4, 1)])
@pytest.mark.parametrize('after', [(1, 3), (2, 4), (3, 3), (4, 2)])
def test_other_processes_and_batches_see_what_is_left_once(before, after):
    done = 2 * before[0] * before[1]
    seen = flat(step_images(*before)[:2])
    rest = step_images(*after, done)
    images = flat(rest)
    left = 22 - done
    # the images come in the order of one process, each once; the padding comes at the end
    assert images[:left] == flat(step_images(1, 22))[done:]
    assert len(images) - left == -left % after[0]
    assert sorted(seen + images[:left]) == list(range(22))
    assert make(world=after[0], batch=after[1]).steps_left(done) == len(rest)


def test_the_next_epoch_starts_at_its_beginning():
    sampler = make()
    assert len(epoch(sampler, 0, done=8)) == 4
    assert len(list(sampler)) == 6


def test_a_stream_without_an_end_goes_on_at_any_image():
    def stream(world, rank, done, batches):
        sampler = make(kind=InfiniteSampler, batch=2, world=world, rank=rank)
        sampler.set_position(3, 0, done)
        iterator = iter(sampler)
        return flat(next(iterator) for _ in range(batches))

    whole = stream(1, 0, 0, 30)
    assert [index.seed_key[2] for index in whole] == [p // 22 for p in range(60)]
    two = [stream(2, rank, 24, 4) for rank in range(2)]
    interleaved = [index for pair in zip(*two) for index in pair]
    assert [i.seed_key for i in interleaved] == [i.seed_key for i in whole[24:40]]


def test_the_sampler_takes_over_the_run_s_seed():
    sampler = make()
    other = make()
    other.sampler.seed = 77
    assert epoch(other, 0, seed=3) == epoch(sampler, 0, seed=3)


class Backwards(BatchSampler):
    def __iter__(self):
        yield from reversed(list(super().__iter__()))


def test_batches_of_another_batch_sampler():
    base = dict(type=Backwards, drop_last=True)
    sampler = make(batch=5, shuffle=False, base_sampler=base)
    batches = epoch(sampler)
    assert batches[0] == [15, 16, 17, 18, 19] and len(batches) == len(sampler) == 4
    assert batches[0][0].seed_key == (3, 15, 0)
    assert epoch(sampler, done=10) == batches[2:]
    assert sampler.steps_left(10) == 2
    with pytest.raises(InputError, match=r'12 images of epoch 1 .* of 5 images per step, and Back'):
        sampler.set_position(3, 0, 12)


def test_a_sampler_with_an_order_of_its_own_starts_at_whole_steps_only():
    sampler = SeededBatchSampler(SequentialSampler(range(10)), 4)
    assert not sampler.is_round_robin
    assert epoch(sampler, done=4) == [[4, 5, 6, 7], [8, 9]]
    with pytest.raises(InputError, match='Resume with the same batch size and number of processes'):
        sampler.set_position(0, 0, 3)


def test_registered_for_configs():
    from mmengine.registry import DATA_SAMPLERS

    cfg = dict(type='mtkdrl_mm.SeededBatchSampler', batch_size=3)
    sampler = DATA_SAMPLERS.build(dict(cfg, sampler=SequentialSampler(range(7))))
    assert list(sampler) == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize(('size', 'batches'), [(21, 5), (22, 6), (20, 5)])
def test_a_last_batch_of_one_image_can_be_left_out(size, batches):
    sampler = make(size=size, skip_single=True)
    assert len(epoch(sampler)) == len(sampler) == batches
    # also when what is left of an epoch ends in one
    for done in range(0, size, 3):
        rest = epoch(sampler, done=done)
        assert len(rest) == sampler.steps_left(done)
        assert 1 not in [len(batch) for batch in rest]
    assert [len(b) for b in epoch(make(size=3, batch=1, skip_single=True))] == [1, 1, 1]


def repeat_aug(rank=0, world=1, size=24, **kwargs):
    """mmpretrain's RepeatAugSampler as process `rank` sees it."""
    inner = RepeatAugSampler(range(size), seed=3)
    inner.rank, inner.world_size = rank, world
    inner.num_samples = 3 * size // world
    inner.total_size, inner.num_selected_samples = 3 * size, size // world
    return SeededBatchSampler(inner, 4, **kwargs)


def keys(batches):
    return [index.seed_key for index in flat(batches)]


def test_every_repeat_of_an_image_is_another_view():
    one = repeat_aug()
    epochs = [keys(epoch(one, number)) for number in range(2)]
    assert len({key[1] for key in epochs[0]}) == 8 and len(set(epochs[0] + epochs[1])) == 48
    # the first of them as if there were no repeats
    assert [key[2] for key in epochs[0][:6]] == [0, 2**32, 2 * 2**32] * 2
    # and also in a resumed epoch
    assert keys(epoch(repeat_aug(), 1, done=8)) == epochs[1][8:]


@pytest.mark.parametrize('world', [2, 3, 4])
def test_repeats_are_counted_over_all_processes(world):
    parts = [epoch(repeat_aug(rank, world), 1) for rank in range(world)]
    dealt = [flat(part) for part in parts]
    together = [index.seed_key for row in zip(*dealt) for index in row]
    assert together == keys(epoch(repeat_aug(), 1)) and len(set(together)) == 24


def test_repeats_take_the_next_of_a_limited_number_of_views():
    sampler = repeat_aug()
    sampler.num_views = 4
    assert [key[2] for key in keys(epoch(sampler, 2))][:6] == [2, 3, 0, 2, 3, 0]


class Drawn(Sampler):
    """Draws with replacement from the global generator; knows no epoch."""

    def __init__(self, dataset, lazily=False):
        self.dataset, self.lazily = dataset, lazily

    def __iter__(self):
        if self.lazily:
            return iter(random.randrange(len(self)) for _ in range(len(self)))
        return iter(torch.randint(len(self), (len(self),)))

    def __len__(self):
        return len(self.dataset)


@pytest.mark.parametrize('lazily', [False, True])
def test_a_sampler_without_epochs_has_a_new_view_every_time_and_can_be_resumed(lazily):
    seen = []
    for number in range(3):
        seed_host(number)  # whatever the training drew before
        sampler = SeededBatchSampler(Drawn(range(20), lazily), 4)
        seen.append(keys(epoch(sampler, number)))
        before = torch.get_rng_state(), random.getstate()
        assert keys(epoch(sampler, number, done=8)) == seen[-1][8:]
        assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
        # the next pass without a position is the next epoch
        assert keys(list(sampler)) == keys(epoch(sampler, number + 1))
    assert len(set(flat(seen))) == 60
    assert len({tuple(key[1] for key in epoch_keys) for epoch_keys in seen}) == 3


def test_processes_that_do_not_know_each_other_have_other_images_and_views(monkeypatch):
    parts = []
    for rank in range(2):
        monkeypatch.setattr(seeded_batch_sampler, 'get_rank', lambda rank=rank: rank)
        monkeypatch.setattr(seeded_batch_sampler, 'get_world_size', lambda: 2)
        parts.append(keys(epoch(SeededBatchSampler(Drawn(range(20)), 4))))
    assert [key[1] for key in parts[0]] != [key[1] for key in parts[1]]
    assert len(set(parts[0] + parts[1])) == 40


class Stream(Sampler):
    """An endless stream from an iterator that was made with the sampler, as MultiSourceSampler."""

    def __init__(self, dataset, rank=0, world_size=1, **kwargs):
        self.dataset, self.rank, self.world_size = dataset, rank, world_size
        self.images = itertools.islice(
            (index for _ in itertools.count() for index in range(len(dataset))),
            rank,
            None,
            world_size,
        )

    def __iter__(self):
        yield from self.images

    def __len__(self):
        return len(self.dataset)


def test_a_stream_that_cannot_be_copied_never_repeats_a_view():
    parts = []
    for rank in range(2):
        sampler = SeededBatchSampler(Stream(range(5), rank, 2), 2)
        sampler.set_position(3, 0)
        parts += keys(itertools.islice(sampler, 20))
        assert sampler.is_endless
        # after some batches, with a stream of its own
        later = SeededBatchSampler(Stream(range(5), rank, 2), 2)
        later.set_position(3, 0, images_done=4 * 7)
        assert keys(itertools.islice(later, 13)) == parts[-26:]
    assert len(set(parts)) == 80


def test_mmengine_s_samplers_keep_their_views_below_another_batch_sampler():
    base = dict(type=BatchSampler, drop_last=False)
    for world in (1, 3):
        for rank in range(world):
            sampler = make(rank=rank, world=world, base_sampler=base)
            assert all(key[2] == 5 for key in keys(epoch(sampler, 5)))
    endless = make(kind=InfiniteSampler, size=6, batch=3, base_sampler=base)
    endless.set_position(3, 0)
    assert [key[2] // 2**32 for key in keys(itertools.islice(endless, 6))] == [
        pass_ for pass_ in range(3) for _ in range(6)
    ]
