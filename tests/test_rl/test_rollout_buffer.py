# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The bounded record of states and rewards."""

import pytest
import torch

from mtkdrl_mm.rl import RolloutBuffer
from mtkdrl_mm.rl.rollout_buffer import redistribute

CPU = torch.device('cpu')


def budget_of(rows, sizes=(1, 1)):
    """MiB that hold so many images and not one more."""
    return (rows + 0.5) * (2 * sum(sizes) + 4 * len(sizes)) / 2**20


def numbered(start, stop):
    """Images whose states and rewards tell their number."""
    numbers = torch.arange(start, stop).float()[:, None]
    return [numbers, -numbers], torch.cat([numbers + 0.25, numbers + 0.5], dim=1)


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def fill(buffer, images, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, images, batch):
        buffer.add(*numbered(start, min(start + batch, images)), generator)


def contents(buffer):
    steps = list(buffer.iterate(CPU))
    states = [torch.cat([step[0][m] for step in steps]) for m in range(2)]
    return states, torch.cat([step[1] for step in steps])


@pytest.mark.parametrize('sizes', [(1, 1), (7, 12, 5), (3062, 3062, 3062, 3062)])
@pytest.mark.parametrize('budget', [0.25, 3.0])
def test_memory_stays_within_the_budget(sizes, budget):
    buffer = RolloutBuffer(sizes, budget)
    assert buffer.nbytes <= budget * 2**20
    # and uses it: one more image would not fit
    assert buffer.nbytes + 2 * sum(sizes) + 4 * len(sizes) > budget * 2**20


@pytest.mark.parametrize('batch', [1, 3, 10, 50])
def test_never_more_rows_than_the_budget(batch):
    buffer = RolloutBuffer([1, 1], budget_of(10))
    assert buffer.capacity == 10
    generator, seen = torch.Generator(), 0
    for _ in range(12):
        buffer.add(*numbered(seen, seen + batch), generator)
        seen += batch
        assert buffer.seen == seen
        states, rewards = contents(buffer)
        assert len(buffer) == len(rewards) == len(states[0]) == min(seen, 10)
        assert torch.equal(rewards, buffer.rewards)


@pytest.mark.parametrize('batch', [1, 7, 40])
def test_every_image_is_kept_equally_often(batch):
    runs, capacity, images = 500, 8, 40
    counts = torch.zeros(images)
    for seed in range(runs):
        buffer = RolloutBuffer([1, 1], budget_of(capacity))
        fill(buffer, images, batch, seed)
        kept = contents(buffer)[0][0].flatten().long()
        assert len(set(kept.tolist())) == capacity
        counts[kept] += 1
    expected = runs * capacity / images
    # 39 degrees of freedom; 73 is exceeded by chance once in a thousand times.
    chi_square = ((counts - expected) ** 2 / (expected * (1 - capacity / images))).sum()
    assert chi_square < 73, counts


def test_the_second_of_two_images_takes_the_only_row_every_other_time():
    buffer, generator = RolloutBuffer([1, 1], budget_of(1)), torch.Generator().manual_seed(0)
    second, runs = 0, 2000
    for _ in range(runs):
        buffer.clear()
        for image in (0, 1):
            buffer.add(*numbered(image, image + 1), generator)
        second += int(buffer.get(0, CPU)[0][0])
    # Within four standard deviations.
    assert abs(second / runs - 0.5) < 4 * 0.5 / runs**0.5


def test_states_and_rewards_of_a_row_are_of_the_same_image(two_threads):
    # Wide states and many draws of the same row, where torch works in parallel.
    sizes, capacity = [2000, 2000], 20
    buffer = RolloutBuffer(sizes, budget_of(capacity, sizes))
    generator = torch.Generator().manual_seed(3)
    for start in range(0, 1200, 300):
        numbers = torch.arange(start, start + 300).float()[:, None]
        states = [numbers.expand(-1, 2000), -numbers.expand(-1, 2000)]
        buffer.add(states, numbers.expand(-1, 2), generator)
    assert len(buffer) == capacity
    for states, rewards in buffer.iterate(CPU):
        assert torch.equal(states[0], rewards[:, :1].expand(-1, 2000))
        assert torch.equal(states[1], -rewards[:, :1].expand(-1, 2000))


def test_images_of_one_step_are_kept_as_if_they_had_come_one_by_one():
    together, single = RolloutBuffer([1, 1], budget_of(4)), RolloutBuffer([1, 1], budget_of(4))
    fill(together, 60, batch=12, seed=5)
    fill(single, 60, batch=1, seed=5)
    assert sorted(contents(together)[1][:, 0].tolist()) == sorted(
        contents(single)[1][:, 0].tolist()
    )


def test_rollout_steps_are_the_steps_until_the_budget_is_used_up():
    buffer = RolloutBuffer([1, 1], budget_of(10))
    fill(buffer, 8, batch=4)
    assert buffer.num_steps == 2
    states, rewards = buffer.get(1, CPU)
    expected = numbered(4, 8)
    for state, original in zip(states, expected[0]):
        assert torch.equal(state, original)
    assert torch.equal(rewards, expected[1])
    order = [buffer.get(step, CPU)[1][0, 0].item() for step in (1, 0)]
    assert order == [4.25, 0.25]
    fill(buffer, 12, batch=4)  # two rows are left for the first four of these
    assert buffer.num_steps == 3
    assert [len(buffer.get(k, CPU)[1]) for k in range(3)] == [4, 4, 2]


def test_states_are_rounded_to_half_precision_and_rewards_are_not():
    buffer = RolloutBuffer([3, 2], 1)
    states = [torch.tensor([[1 / 3, 1e-3, 1e6]]), torch.tensor([[-1e9, 2049.0]])]
    rewards = torch.tensor([[1 / 3, -1e6 + 1 / 7]])
    buffer.add(states, rewards, torch.Generator())
    ours, kept = buffer.get(0, CPU)
    torch.testing.assert_close(ours[0][:, :2], states[0][:, :2], rtol=2**-11, atol=0)
    assert torch.equal(ours[0][:, :2], states[0][:, :2].half().float())
    # beyond its range: the largest number, not infinity
    assert ours[0][0, 2] == 65504 and ours[1][0, 0] == -65504
    assert ours[0].dtype == torch.float32
    assert torch.equal(kept, rewards)


def test_non_finite_images_are_counted_by_teacher():
    buffer = RolloutBuffer([3, 2], 1)
    for start in (0, 4):
        # the largest sum that finite states have is none
        states = [torch.full((4, 3), 1e9), torch.full((4, 2), -1e9)]
        rewards = torch.full((4, 2), -3e38)
        if start:
            states[0][1:3, 2] = states[1][2, 0] = float('nan')
            states[1][0, 1], states[1][3, 0] = float('inf'), float('-inf')
            rewards[3, 1] = float('-inf')
        buffer.add(states, rewards, torch.Generator())
    states, rewards = buffer.count_non_finite()
    assert states.tolist() == [2, 3] and rewards.tolist() == [0, 1]
    buffer.clear()
    assert [counts.tolist() for counts in buffer.count_non_finite()] == [[0, 0], [0, 0]]


def test_what_was_added_is_a_copy():
    buffer = RolloutBuffer([1, 1], 1)
    states, rewards = numbered(0, 4)
    buffer.add(states, rewards, torch.Generator())
    states[0].add_(100)
    rewards.add_(100)
    assert torch.equal(contents(buffer)[1], numbered(0, 4)[1])
    assert torch.equal(contents(buffer)[0][0], numbered(0, 4)[0][0])


def test_clear_starts_again():
    buffer = RolloutBuffer([1, 1], budget_of(5))
    fill(buffer, 50, batch=5)
    buffer.clear()
    assert len(buffer) == buffer.seen == buffer.num_steps == 0
    fill(buffer, 3, batch=3)
    assert torch.equal(contents(buffer)[1], numbered(0, 3)[1])


@pytest.mark.parametrize('images', [6, 23])
def test_goes_on_from_its_saved_state(images):
    whole, first, second = (RolloutBuffer([1, 1], budget_of(10)) for _ in range(3))
    fill(whole, images, batch=3)
    fill(first, images, batch=3)
    state = first.state_dict()
    fill(first, 30, batch=3, seed=9)  # what was saved is a copy
    second.load_state_dict(state)
    for buffer in (whole, second):
        generator = torch.Generator().manual_seed(4)
        buffer.add(*numbered(images, images + 20), generator)
    assert whole.seen == second.seen == images + 20
    assert whole.num_steps == second.num_steps
    for k in range(whole.num_steps):
        (ours, rewards), (others, other_rewards) = whole.get(k, CPU), second.get(k, CPU)
        assert torch.equal(rewards, other_rewards)
        assert all(torch.equal(a, b) for a, b in zip(ours, others))


def test_saved_state_of_other_teachers_is_refused():
    buffer = RolloutBuffer([1, 1], 1)
    fill(buffer, 9, batch=3)
    with pytest.raises(ValueError, match='states of 2 entries, but those of these teachers have 3'):
        RolloutBuffer([1, 2], 1).load_state_dict(buffer.state_dict())


@pytest.mark.parametrize('capacity', [1, 4, 5, 8])
def test_a_smaller_budget_keeps_an_even_choice_in_steps(capacity):
    buffer, smaller = RolloutBuffer([1, 1], 1), RolloutBuffer([1, 1], budget_of(capacity))
    fill(buffer, 9, batch=3)
    smaller.load_state_dict(buffer.state_dict())
    assert len(smaller) == capacity and smaller.seen == 9
    chosen = [k * 9 // capacity for k in range(capacity)]
    assert torch.equal(smaller.rewards, buffer.rewards[chosen])
    steps = [smaller.get(k, CPU)[1] for k in range(smaller.num_steps)]
    for k, rewards in enumerate(steps):
        own = [i for i in chosen if 3 * k <= i < 3 * k + 3]
        assert torch.equal(rewards, buffer.rewards[own])


def test_empty_steps_are_kept_until_they_are_dropped():
    """Another process may have rows of them."""
    buffer, smaller = RolloutBuffer([1, 1], 1), RolloutBuffer([1, 1], budget_of(2))
    fill(buffer, 9, batch=3)
    smaller.load_state_dict(buffer.state_dict())
    rewards = smaller.rewards.clone()
    assert smaller.state_dict()['offsets'] == [0, 1, 2, 2]
    assert smaller.align_steps() == [1, 1, 0]
    smaller.drop_empty_steps()
    assert smaller.state_dict()['offsets'] == [0, 1, 2]
    assert torch.equal(contents(smaller)[1], rewards)
    smaller.clear()
    smaller.drop_empty_steps()
    assert smaller.num_steps == len(smaller) == 0


def on_more_processes(buffer):
    """A full buffer of one process, resumed by two."""
    pair = [RolloutBuffer([1, 1], budget_of(buffer.capacity)) for _ in range(2)]
    for own, state in zip(pair, redistribute([buffer.state_dict()], 2), strict=True):
        own.load_state_dict(state)
    return pair


def with_a_larger_budget(buffer):
    larger = RolloutBuffer([1, 1], budget_of(3 * buffer.capacity))
    larger.load_state_dict(buffer.state_dict())
    return [larger]


@pytest.mark.parametrize('resume', [on_more_processes, with_a_larger_budget])
def test_a_full_buffer_with_more_room_has_the_rows_that_it_holds(resume):
    full = RolloutBuffer([1, 1], budget_of(8))
    fill(full, 40, batch=4)
    resumed = resume(full)
    assert sum(map(len, resumed)) == 8 and sum(buffer.seen for buffer in resumed) == 40
    for number, buffer in enumerate(resumed):
        fill(buffer, 20, batch=5, seed=number)
        states, rewards = contents(buffer)
        assert len(buffer) == len(rewards) == 8 // len(resumed)
        # rewards and states of the same images, and no row of memory that none was put into
        assert torch.equal(buffer.rewards, rewards)
        assert torch.equal(rewards[:, :1], states[0] + 0.25)
        state = buffer.state_dict()
        assert len(state['states']) == len(state['rewards']) == state['offsets'][-1]
        # the next images have all the room again
        buffer.clear()
        fill(buffer, 2 * buffer.capacity, batch=4)
        assert len(buffer) == buffer.capacity


@pytest.mark.parametrize('resume', [on_more_processes, with_a_larger_budget])
def test_images_before_and_after_a_resume_are_kept_equally_often(resume):
    runs, images = 500, 40
    counts = torch.zeros(images)
    for seed in range(runs):
        buffer = RolloutBuffer([1, 1], budget_of(8))
        fill(buffer, images // 2, batch=4, seed=seed)
        resumed = resume(buffer)
        for rank, own in enumerate(resumed):
            generator = torch.Generator().manual_seed(1000 + 2 * seed + rank)
            for start in range(images // 2, images, 4):
                states, rewards = numbered(start, start + 4)
                share = slice(rank, None, len(resumed))
                own.add([state[share] for state in states], rewards[share], generator)
            counts[contents(own)[0][0].flatten().long()] += 1
    expected = runs * 8 / images
    chi_square = ((counts - expected) ** 2 / (expected * (1 - 8 / images))).sum()
    assert chi_square < 73, counts


@pytest.mark.parametrize(('before', 'after'), [(1, 2), (2, 1), (2, 3), (3, 2), (2, 2)])
def test_dealt_out_to_another_number_of_processes(before, after):
    """As if the other number of processes had recorded the steps: three of 12 images."""

    def record(world):
        buffers = [RolloutBuffer([1, 1], 1) for _ in range(world)]
        for step in range(3):
            states, rewards = numbered(12 * step, 12 * step + 12)
            for rank, buffer in enumerate(buffers):
                own = slice(rank, None, world)
                buffer.add([s[own] for s in states], rewards[own], torch.Generator())
        return [buffer.state_dict() for buffer in buffers]

    dealt = redistribute(record(before), after)
    for state, expected in zip(dealt, record(after), strict=True):
        assert state['seen'] == expected['seen'] == 36 // after
        assert state['offsets'] == expected['offsets']
        assert torch.equal(state['states'], expected['states'])
        assert torch.equal(state['rewards'], expected['rewards'])


def test_a_buffer_that_was_full_earlier_lacks_the_last_steps():
    buffers = [RolloutBuffer([1, 1], budget_of(4)) for _ in range(2)]
    for number, buffer in enumerate(buffers):
        for step in range(4):
            first = 10 * step + number
            buffer.add(*numbered(first, first + 2 - number), torch.Generator().manual_seed(0))
    assert [buffer.num_steps for buffer in buffers] == [2, 4]
    (one,) = redistribute([buffer.state_dict() for buffer in buffers], 1)
    assert one['offsets'] == [0, 3, 6, 7, 8] and one['seen'] == 12
    expected = [buffer.rewards[:, 0].tolist() for buffer in buffers]
    assert sorted(one['rewards'][:, 0].tolist()) == sorted(expected[0] + expected[1])
    # what is dealt out has as many steps on every process
    for state in redistribute([buffer.state_dict() for buffer in buffers], 3):
        assert len(state['offsets']) == 5


def test_a_step_without_images_is_a_step():
    buffer = RolloutBuffer([1, 1], 1)
    for images in (2, 0, 1):
        buffer.add(*numbered(0, images), torch.Generator())
    assert [len(buffer.get(step, CPU)[1]) for step in range(buffer.num_steps)] == [2, 0, 1]
    assert buffer.align_steps() == [2, 0, 1]


def test_budget_below_one_image_is_refused():
    sizes = [3062, 3062]  # 2 * 6124 + 8 bytes, 0.0117 MiB
    assert RolloutBuffer(sizes, 0.012).capacity == 1
    with pytest.raises(ValueError, match=r'0\.011 MiB holds no image: one needs 0\.012 MiB'):
        RolloutBuffer(sizes, 0.011)
