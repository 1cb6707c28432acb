# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Several processes, each with its share of every step's images, learn what one does."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.multiprocessing.spawn import start_processes

from mtkdrl_mm.engine.hooks.agent_hook import _of_all_processes
from mtkdrl_mm.models import AttentionAgent
from mtkdrl_mm.rl import (
    DDPG,
    DPG,
    PPO,
    AgentTrainer,
    BatchZScoreAdvantage,
    ClosenessReward,
    EmbeddingProbes,
    LabelProbabilityReward,
    MemorisedShare,
    MixtureLikelihood,
    PolicyGradient,
    Reward,
    RolloutBuffer,
    StandardizedAdvantage,
    StateLayout,
    WeightedBCE,
)
from mtkdrl_mm.structures import NetworkOutput, StepTerms
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.distributed import gather_interleaved, local_shard

SIZES = [6, 8]
ALGORITHMS = {
    'pg': lambda agent: PolicyGradient(agent, advantage=StandardizedAdvantage()),
    'released': lambda agent: WeightedBCE(agent, advantage=BatchZScoreAdvantage()),
    'stacking': lambda agent: MixtureLikelihood(agent, entropy_weight=0.1),
    'ppo': PPO,
    'dpg': DPG,
    # 40 images fill the first replay three times over, and leave 1 for its last mini batch.
    'ddpg, full replay': lambda agent: DDPG(agent, replay_budget=25 * 36 / 2**20),
    'ddpg': DDPG,
}
# Images of each step.
EVEN = (8, 8, 8, 8, 8)
UNEVEN = (8, 7, 1, 2, 5)


def learn(name, rank, world_size, sizes=EVEN):
    """Two updates from five steps; returns everything learned."""
    torch.manual_seed(0)
    agent = AttentionAgent(StateLayout((3, 5), 0), hidden=16, heads=2)
    assert agent.state_sizes == SIZES
    algorithm = ALGORITHMS[name](agent)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        buffer = RolloutBuffer(SIZES, 1.0)
        for images in sizes:
            states = [torch.randn(images, size, generator=generator) for size in SIZES]
            rewards = torch.randn(images, 2, generator=generator)
            own = slice(rank, None, world_size)
            kept = algorithm.normalize_step(rewards[own])
            buffer.add([state[own] for state in states], kept, generator)
        loss = torch.tensor(algorithm.update(buffer)['agent_loss'])
    return copy.deepcopy(dict(loss=loss, agent=agent.state_dict(), **algorithm.state_dict()))


def learn_from_few(rank, world_size, steps):
    """An update from some steps of 10 images, of which process 0's buffer holds 25.

    The other processes have images in the first step only, if at all.
    """
    torch.manual_seed(0)
    algorithm = DPG(AttentionAgent(StateLayout((3, 5), 0), hidden=16, heads=2))
    buffer = RolloutBuffer(SIZES, 25 * 36 / 2**20)
    trainer = AgentTrainer(algorithm, ClosenessReward(), buffer, seed=0)
    generator = torch.Generator().manual_seed(rank)
    for step in range(steps):
        if rank == 0 or step == 0:
            states = [torch.randn(10, size, generator=generator) for size in SIZES]
            buffer.add(states, torch.randn(10, 2, generator=generator), generator)
    update = trainer.update()
    return update and update.log, copy.deepcopy(algorithm.agent.state_dict())


def learn_from_a_bad_reward(rank):
    """What an update says of a reward of the last process that is no number."""
    agent = AttentionAgent(StateLayout((3, 5), 0), hidden=16, heads=2)
    trainer = AgentTrainer(DPG(agent), ClosenessReward(), RolloutBuffer(SIZES, 1.0), 0, ['a', 'b'])
    rewards = torch.zeros(4, 2)
    if rank == 1:
        rewards[2, 1] = float('nan')
    trainer.buffer.add([torch.zeros(4, size) for size in SIZES], rewards, torch.Generator())
    with pytest.raises(InputError) as error:
        trainer.update()
    return str(error.value)


class Given(Reward):
    """Takes rewards in place of a step's terms."""

    def __call__(self, terms, weights):
        return terms


def observe_uneven_steps(rank, world_size):
    """Three steps of 3 images of process 0, of which the others have the first too."""
    agent = AttentionAgent(StateLayout((3, 5), 0), hidden=16, heads=2)
    algorithm = WeightedBCE(agent, advantage=BatchZScoreAdvantage())
    trainer = AgentTrainer(algorithm, Given(), RolloutBuffer(SIZES, 1.0), 0)
    rewards = torch.randn(3, 3, 2, generator=torch.Generator().manual_seed(rank))
    action = SimpleNamespace(states=[torch.zeros(3, size) for size in SIZES])
    for step, (own, everyone) in enumerate(_of_all_processes(rewards[: 3 if rank == 0 else 1])):
        assert everyone == (step == 0)
        if own is None:
            trainer.observe_none(step)
        else:
            trainer.observe(own, action, step)
    return rewards, [trainer.buffer.get(step, torch.device('cpu'))[1] for step in range(3)]


def estimate_shares(rank, world_size):
    """Of 9 of the student's images, before and after a checkpoint, and 7 held-out ones."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(4, (9,), generator=generator)
    teachers = torch.randn(2, 9, 4, generator=generator) + 2 * F.one_hot(labels, 4)
    held_out = torch.rand(7, 2, generator=generator) / 4
    memorised = MemorisedShare(2)
    for images in (range(6), range(6, 9)):
        own = list(images)[rank::world_size]
        outputs = [NetworkOutput(teacher[own], None) for teacher in teachers]
        memorised.observe(StepTerms(outputs[0], outputs, labels[own]))
        memorised.gather()
        state, memorised = memorised.state_dict(), MemorisedShare(2)
        memorised.load_state_dict(state)
    return memorised.estimate(held_out[rank::world_size])


def probe_embeddings(rank, world_size):
    """Of 13 held-out images in steps of 6; of the last one only process 0 has any."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.arange(13) % 3
    embeddings = [
        noise * torch.randn(13, 4, generator=generator) + labels[:, None] for noise in (0.3, 0.6)
    ]
    probes = EmbeddingProbes((4, 4), 3)
    for start in range(0, 13, 6):
        own = torch.arange(start, min(start + 6, 13))[rank::world_size]
        if len(own) > 0:
            teachers = [NetworkOutput(torch.zeros(len(own), 3), e[own]) for e in embeddings]
            probes.observe(StepTerms(teachers[0], teachers, labels[own]))
    return probes.label_probabilities()


def find_feature_weights(rank, world_size):
    """Of 12 held-out images, of which the first teacher's embeddings know more."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(12) % 3
    embeddings = [noise * torch.randn(12, 4, generator=generator) for noise in (0.1, 3.0)]
    own = torch.arange(12)[rank::world_size]
    teachers = [
        NetworkOutput(torch.zeros(len(own), 3), (e + labels[:, None])[own]) for e in embeddings
    ]
    torch.manual_seed(0)
    agent = AttentionAgent(StateLayout((3, 5), 0), hidden=16, heads=2)
    trainer = AgentTrainer(
        MixtureLikelihood(agent),
        LabelProbabilityReward(),
        RolloutBuffer(SIZES, 1.0),
        seed=0,
        probes=EmbeddingProbes((4, 4), 3),
    )
    action = SimpleNamespace(states=[torch.zeros(len(own), size) for size in SIZES])
    trainer.observe(StepTerms(teachers[0], teachers, labels[own]), action, 0)
    return trainer.update().feature_weights


def probe_few(rank):
    """Of 4 held-out images, all of process 0."""
    probes = EmbeddingProbes((2,), 2)
    if rank == 0:
        labels = torch.tensor([0, 1, 0, 1])
        teacher = NetworkOutput(torch.zeros(4, 2), torch.eye(2)[labels])
        probes.observe(StepTerms(teacher, [teacher], labels))
    return probes.label_probabilities()


def work(rank, world_size, folder):
    torch.set_num_threads(1)
    store = f'file://{folder}/store'
    dist.init_process_group('gloo', init_method=store, rank=rank, world_size=world_size)
    numbers = torch.arange(7)[:, None]
    rows = gather_interleaved(numbers[local_shard()])
    results = {
        (name, sizes): learn(name, rank, world_size, sizes)
        for name in ALGORITHMS
        for sizes in (EVEN, UNEVEN)
        if sizes == UNEVEN or world_size == 2
    }
    few = {steps: learn_from_few(rank, world_size, steps) for steps in (0, 1, 3)}
    bad = learn_from_a_bad_reward(rank)
    uneven = observe_uneven_steps(rank, world_size)
    shares = estimate_shares(rank, world_size)
    probed = probe_embeddings(rank, world_size), probe_few(rank)
    found = find_feature_weights(rank, world_size)
    torch.save((rows, results, probed, found, shares, few, uneven, bad), folder / f'{rank}.pth')


def start(world_size, folder):
    start_processes(work, args=(world_size, folder), nprocs=world_size, start_method='fork')
    return [torch.load(folder / f'{rank}.pth') for rank in range(world_size)]


@pytest.fixture(scope='module')
def learned(tmp_path_factory):
    return start(2, tmp_path_factory.mktemp('processes'))


@pytest.fixture(scope='module')
def learned_by_three(tmp_path_factory):
    return start(3, tmp_path_factory.mktemp('processes'))


def test_rows_come_back_in_the_order_of_one_process(learned):
    # 7 images, so that one process has 4 of them and the other 3
    assert all(rows.flatten().tolist() == list(range(7)) for rows, *_ in learned)


def test_steps_of_which_a_process_has_no_image_are_normalised_over_the_others(learned_by_three):
    (rewards, kept), *others = (uneven for *_, uneven, _ in learned_by_three)
    first = torch.cat([rewards[0], *(other[0] for other, _ in others)]).double()
    for step, ours in enumerate(kept):
        images = rewards[step].double() if step else first
        scores = (rewards[step] - images.mean()) / images.std(correction=0)
        torch.testing.assert_close(ours, scores.clamp(0, 1).float())
    assert all([len(rows) for rows in own] == [3, 0, 0] for _, own in others)


def test_a_bad_reward_of_one_process_is_an_error_on_all(learned):
    for *_, message in learned:
        assert 'the 8 images' in message
        assert ': the rewards of teacher "b" are not finite on 1 of them. Check' in message


def test_several_processes_estimate_what_one_does(learned, learned_by_three):
    one = estimate_shares(0, 1)
    assert float(one.min()) > 0.3
    for *_, shares, _, _, _ in learned + learned_by_three:
        assert torch.equal(shares, one)


def test_several_processes_probe_the_images_of_all(learned, learned_by_three):
    """Some of which have no image, as those of the last step."""
    one = probe_embeddings(0, 1)
    assert one.shape == (13, 2) and float(one.mean(dim=0).diff()) < -0.05
    for _, _, (probed, few), *_ in learned + learned_by_three:
        torch.testing.assert_close(probed, one)
        assert torch.equal(few, probe_few(0))


def test_several_processes_find_the_same_feature_weights(learned, learned_by_three):
    one = find_feature_weights(0, 1)
    assert one[0] > 0.8
    for processes in (learned, learned_by_three):
        for _, _, _, found, *_ in processes:
            torch.testing.assert_close(found, one)
            assert torch.equal(found, processes[0][3])


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


def check(processes, name, sizes):
    one = tensors_of(learn(name, 0, 1, sizes))
    first, *others = (tensors_of(results[name, sizes]) for _, results, *_ in processes)
    for key, tensor in one.items():
        assert all(torch.equal(first[key], other[key]) for other in others), key
        # Adam makes steps of 1e-3 also where a gradient is hardly more than rounding.
        torch.testing.assert_close(first[key], tensor, atol=3e-5, rtol=1e-5, msg=key)
    assert all(one.keys() == other.keys() for other in (first, *others))


@pytest.mark.parametrize('sizes', [EVEN, UNEVEN])
@pytest.mark.parametrize('name', ALGORITHMS)
def test_two_processes_learn_what_one_does(learned, name, sizes):
    check(learned, name, sizes)


@pytest.mark.parametrize('name', ALGORITHMS)
def test_three_processes_some_without_an_image_of_a_step_learn_what_one_does(
    learned_by_three, name
):
    check(learned_by_three, name, UNEVEN)


def test_processes_with_different_numbers_of_steps_update_together(learned):
    (*_, first, _, _), (*_, second, _, _) = learned
    assert first[0][0] is second[0][0] is None
    for steps in (1, 3):
        assert first[steps][0] == second[steps][0]
        assert first[steps][0]['agent_loss'] == first[steps][0]['agent_loss']
        for key, tensor in first[steps][1].items():
            assert torch.equal(tensor, second[steps][1][key]) and tensor.isfinite().all(), key


def test_the_replay_was_full(learned):
    _, results, *_ = learned[0]
    replay = results['ddpg, full replay', EVEN]['replay']
    assert replay['seen'] == 80 and len(replay['rewards']) == 25
    assert replay['offsets'] == [0, 8, 16, 24, 25]
