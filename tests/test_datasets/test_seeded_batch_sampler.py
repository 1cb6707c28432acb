# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Views of batches, and exact positions for any number of processes."""

import itertools

import pytest
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, SequentialSampler

from mtkdrl_mm.datasets import SeededBatchSampler
from mtkdrl_mm.utils import InputError


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
