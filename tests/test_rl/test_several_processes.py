# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Several processes, each with its share of every step's images, learn what one does."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from mtkdrl_mm.models import AttentionAgent
from mtkdrl_mm.rl import (
    DDPG,
    DPG,
    PPO,
    BatchZScoreAdvantage,
    PolicyGradient,
    RolloutBuffer,
    StandardizedAdvantage,
    StateLayout,
    WeightedBCE,
)
from mtkdrl_mm.utils.distributed import gather_interleaved, local_shard

SIZES = [6, 8]
ALGORITHMS = {
    'pg': lambda agent: PolicyGradient(agent, advantage=StandardizedAdvantage()),
    'released': lambda agent: WeightedBCE(agent, advantage=BatchZScoreAdvantage()),
    'ppo': PPO,
    'dpg': DPG,
    # 40 images fill the first replay three times over, and leave 1 for its last mini batch.
    'ddpg, full replay': lambda agent: DDPG(agent, replay_budget=25 * 36 / 2**20),
    'ddpg': DDPG,
}


def learn(name, rank, world_size):
    """Two updates from five steps of 8 images each; returns everything learned."""
    torch.manual_seed(0)
    agent = AttentionAgent(StateLayout((3, 5), 0), hidden=16, heads=2)
    assert agent.state_sizes == SIZES
    algorithm = ALGORITHMS[name](agent)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        buffer = RolloutBuffer(SIZES, 1.0)
        for _ in range(5):
            states = [torch.randn(8, size, generator=generator) for size in SIZES]
            rewards = torch.randn(8, 2, generator=generator)
            own = slice(rank, None, world_size)
            buffer.add([state[own] for state in states], rewards[own], generator)
        algorithm.update(buffer)
    return copy.deepcopy(dict(agent=agent.state_dict(), **algorithm.state_dict()))


def work(rank, world_size, folder):
    torch.set_num_threads(1)
    store = f'file://{folder}/store'
    dist.init_process_group('gloo', init_method=store, rank=rank, world_size=world_size)
    numbers = torch.arange(7)[:, None]
    rows = gather_interleaved(numbers[local_shard()])
    results = {name: learn(name, rank, world_size) for name in ALGORITHMS}
    torch.save((rows, results), folder / f'{rank}.pth')


@pytest.fixture(scope='module')
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp('processes')
    start_processes(work, args=(2, folder), nprocs=2, start_method='fork')
    return [torch.load(folder / f'{rank}.pth') for rank in (0, 1)]


def test_rows_come_back_in_the_order_of_one_process(learned):
    # 7 images, so that one process has 4 of them and the other 3
    assert all(rows.flatten().tolist() == list(range(7)) for rows, _ in learned)


def tensors_of(state, prefix=''):
    """All tensors in nested dicts and lists, by their path."""
    if isinstance(state, torch.Tensor):
        return {prefix: state}
    pairs = state.items() if isinstance(state, dict) else enumerate(state)
    nested = [
        tensors_of(value, f'{prefix}/{key}')
        for key, value in pairs
        if isinstance(value, (dict, list, torch.Tensor))
    ]
    return {key: tensor for tensors in nested for key, tensor in tensors.items()}


@pytest.mark.parametrize('name', ALGORITHMS)
def test_two_processes_learn_what_one_does(learned, name):
    one = tensors_of(learn(name, 0, 1))
    first, second = (tensors_of(results[name]) for _, results in learned)
    assert one.keys() == first.keys() == second.keys()
    for key, tensor in one.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], tensor, atol=1e-5, rtol=1e-5, msg=key)


def test_the_replay_was_full(learned):
    _, results = learned[0]
    replay = results['ddpg, full replay']['replay']
    assert replay['seen'] == 80 and len(replay['rewards']) == 25
    assert replay['offsets'] == [0, 8, 16, 24, 25]
