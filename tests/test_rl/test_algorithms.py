# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""All algorithms on the same bandit, and what is particular to each."""

import copy
import inspect
from functools import partial

import pytest
import torch
from torch import nn

from mtkdrl_mm.models import AttentionAgent, JointAgent, PerTeacherAgent
from mtkdrl_mm.rl import (
    DDPG,
    DPG,
    PPO,
    Algorithm,
    BatchZScoreAdvantage,
    MinMaxAdvantage,
    MixtureLikelihood,
    PolicyGradient,
    RolloutBuffer,
    StandardizedAdvantage,
    StateLayout,
    WeightedBCE,
    algorithms,
)
from mtkdrl_mm.utils import InputError

SIZES = [3, 3]
ADAM = dict(type='Adam', lr=0.01)
ALGORITHMS = {
    'pg': partial(PolicyGradient, optimizer=ADAM, entropy_weight=0.01),
    'ml': partial(MixtureLikelihood, optimizer=ADAM, entropy_weight=0.01),
    'ppo': partial(PPO, optimizer=ADAM, entropy_weight=0.01),
    'dpg': partial(DPG, optimizer=ADAM, critic_optimizer=ADAM, entropy_weight=0.01),
    'ddpg': partial(DDPG, optimizer=ADAM, critic_optimizer=ADAM, entropy_weight=0.01),
}

EVERY_KIND = [
    kind
    for kind in vars(algorithms).values()
    if inspect.isclass(kind) and issubclass(kind, Algorithm) and kind is not Algorithm
]


class TableAgent(nn.Module):
    """Scores that are the parameters, a row for every image: gradients have closed forms."""

    def __init__(self, logit, feature):
        super().__init__()
        self.logit, self.feature = nn.Parameter(logit), nn.Parameter(feature)
        self.state_sizes = self.normalized_sizes = [1] * logit.shape[1]

    def forward(self, states):
        return self.logit.log_softmax(1), self.feature.log_softmax(1)

    def normalize(self, states):
        return states

    def update_state_stats(self, buffer):
        pass


def bandit(count: int, seed: int = 0):
    """A sign in both states tells which of two teachers is right."""
    generator = torch.Generator().manual_seed(seed)
    right = torch.randint(2, (count,), generator=generator)
    sign = (2.0 * right - 1)[:, None]
    states = [
        torch.cat([s * sign, torch.randn(count, 2, generator=generator)], dim=1) for s in (-1, 1)
    ]
    rewards = torch.nn.functional.one_hot(right, 2).float()
    return states, rewards, right


def buffer_of(seed: int = 0, steps: int = 8) -> RolloutBuffer:
    buffer = RolloutBuffer(SIZES, 1.0)
    for step in range(steps):
        states, rewards, _ = bandit(32, 100 * seed + step)
        buffer.add(states, rewards, torch.Generator())
    return buffer


@pytest.mark.parametrize('name', ALGORITHMS)
@pytest.mark.parametrize('agent', [PerTeacherAgent, JointAgent])
def test_every_algorithm_finds_the_right_teacher(name, agent):
    agent = agent(SIZES, hidden=32)
    algorithm = ALGORITHMS[name](agent)
    for update in range(25):
        algorithm.update(buffer_of(update))
    states, _, right = bandit(500, 999_999)
    for log_probs in agent(states):
        weight = log_probs.exp().gather(1, right[:, None]).mean()
        assert weight > 0.8, f'{name}: {weight:.2f}'
    assert not any(p.requires_grad or p.grad is not None for p in agent.parameters())


@pytest.mark.parametrize('name', ALGORITHMS)
def test_going_on_from_a_saved_state_is_exact(name):
    torch.manual_seed(0)
    agent = PerTeacherAgent(SIZES, hidden=8)
    whole = ALGORITHMS[name](agent)
    whole.update(buffer_of(1))
    other_agent, state = copy.deepcopy(agent), copy.deepcopy(whole.state_dict())
    whole.update(buffer_of(2))

    resumed = ALGORITHMS[name](other_agent)
    resumed.load_state_dict(state)
    resumed.update(buffer_of(2))
    for a, b in zip(agent.state_dict().values(), other_agent.state_dict().values()):
        assert torch.equal(a, b)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(agent.parameters(), PerTeacherAgent(SIZES, hidden=8).parameters())
    )


@pytest.mark.parametrize('name', ALGORITHMS)
def test_a_resumed_training_has_the_learning_rates_of_its_config(name):
    """And not those of the checkpoint, which may have been too high."""
    agent = PerTeacherAgent(SIZES, hidden=8)
    settings = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
    lower = dict(optimizer=dict(type='SGD', lr=0.001, momentum=0.8, weight_decay=0.1))
    if 'dpg' in name:
        settings['critic_optimizer'] = dict(type='Adam', lr=1e-3)
        lower['critic_optimizer'] = dict(type='Adam', lr=1e-5)
    first = ALGORITHMS[name](agent, **settings)
    first.update(buffer_of(1))
    state = copy.deepcopy(first.state_dict())
    resumed = ALGORITHMS[name](agent, **lower)
    resumed.load_state_dict(state)
    (group,) = resumed.optimizer.param_groups
    assert (group['lr'], group['momentum'], group['weight_decay']) == (0.001, 0.8, 0.1)
    momentum = [part['momentum_buffer'] for part in resumed.optimizer.state.values()]
    assert momentum and any(part.abs().sum() > 0 for part in momentum)
    if 'dpg' in name:
        assert resumed.critic_optimizer.param_groups[0]['lr'] == 1e-5


@pytest.mark.parametrize('kind', EVERY_KIND)
def test_gradient_of_the_entropy_bonus(kind):
    agent = TableAgent(*torch.randn(2, 6, 4).double())
    states, rewards = [torch.zeros(6, 1).double()] * 4, torch.rand(6, 4).double()
    old = [head.detach() for head in TableAgent(*torch.randn(2, 6, 4).double())(states)]
    gradients = []
    for weight in (0.0, 0.3):
        algorithm = kind(agent, entropy_weight=weight)
        agent.requires_grad_(True)
        if issubclass(kind, DPG):
            loss = algorithm.loss(states, algorithm.critic.double())
        elif kind is PPO:
            loss = algorithm.loss(states, rewards, old)
        else:
            loss = algorithm.loss(states, rewards)
        gradients.append(torch.autograd.grad(loss, [agent.logit, agent.feature]))
    for scores, without, with_bonus in zip((agent.logit, agent.feature), *gradients):
        policy = scores.detach().softmax(dim=1)
        entropy = -(policy * policy.log()).sum(dim=1, keepdim=True)
        # dH/ds_k = -pi_k (log pi_k + H), and the loss is minus the mean.
        expected = 0.3 * policy * (policy.log() + entropy) / 6
        torch.testing.assert_close(with_bonus - without, expected)
        assert without.abs().max() > 1e-3


@pytest.mark.parametrize('kind', [DPG, DDPG])
def test_the_gradient_norm_of_the_critic_is_limited_too(kind):
    algorithm = kind(
        PerTeacherAgent(SIZES), max_grad_norm=1e-3, critic_optimizer=dict(type='SGD', lr=1.0)
    )
    before = torch.cat([p.detach().flatten().clone() for p in algorithm.critic_parameters])
    algorithm.train_critic(*bandit(64)[:2], 1, algorithm.noise_generator(), 64)
    moved = torch.cat([p.detach().flatten() for p in algorithm.critic_parameters]) - before
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)


ADVANTAGES = [MinMaxAdvantage, StandardizedAdvantage, BatchZScoreAdvantage]


@pytest.mark.parametrize('kind', ADVANTAGES)
def test_equal_rewards_of_an_image_have_no_gradient(kind):
    """Why `check_signal` refuses them, whatever the advantage: weights sum to 1."""
    agent, advantage = PerTeacherAgent(SIZES, hidden=8), kind()
    gradient, ppo = (algorithm(agent, advantage=advantage) for algorithm in (PolicyGradient, PPO))
    states, rewards, _ = bandit(64)
    old = agent(states)
    parameters = list(agent.requires_grad_(True).parameters())
    for seen, learns in ((rewards, True), (torch.randn(64, 1).expand(-1, 2), False)):
        seen = advantage.normalize_step(seen)
        advantage.observe(seen)
        for loss in (gradient.loss(states, seen), ppo.loss(states, seen, old)):
            largest = max(g.abs().max() for g in torch.autograd.grad(loss, parameters))
            assert largest > 1e-3 if learns else largest < 1e-7


@pytest.mark.parametrize('kind', ADVANTAGES)
def test_advantages_that_may_be_negative_say_so(kind):
    advantage, (_, rewards, _) = kind(), bandit(64)
    rewards = advantage.normalize_step(rewards)
    advantage.observe(rewards)
    assert (advantage(rewards).min() >= 0) == kind.is_non_negative
    assert WeightedBCE.needs_non_negative


@pytest.mark.parametrize('name', ALGORITHMS)
def test_an_agent_that_is_no_number_any_more_is_an_error(name):
    algorithm = ALGORITHMS[name](
        PerTeacherAgent(SIZES, hidden=8), optimizer=dict(type='SGD', lr=1e38)
    )
    message = (
        rf'Update 1 of the agent has made its "\S+" NaN .* algorithm "{type(algorithm).__name__}"'
    )
    with pytest.raises(InputError, match=message):
        algorithm.update(buffer_of(1))


def test_ppo_first_step_is_the_policy_gradient():
    """With the ratio at 1 nothing is clipped, and both gradients are equal."""
    agent = PerTeacherAgent(SIZES, hidden=8)
    buffer = buffer_of(3, steps=1)
    states, rewards = buffer.get(0, torch.device('cpu'))
    gradients = []
    with torch.no_grad():
        old = agent(states)
    for algorithm, arguments in ((PPO(agent), (old,)), (PolicyGradient(agent), ())):
        agent.requires_grad_(True)
        loss = algorithm.loss(states, rewards, *arguments)
        gradients.append(torch.autograd.grad(loss, list(agent.parameters())))
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)


def test_ppo_stops_at_the_clip():
    """Far beyond the old policy there is nothing to gain any more."""
    agent = PerTeacherAgent(SIZES, hidden=8)
    algorithm = PPO(agent)
    states, rewards, _ = bandit(16)
    log_probs = [head.detach() for head in agent(states)]
    best = rewards.argmax(dim=1)
    old = [lp.clone() for lp in log_probs]
    for lp in old:
        # The old policy had the good teacher at half, the bad one at double.
        shift = torch.where(torch.nn.functional.one_hot(best, 2).bool(), 0.5, 2.0).log()
        lp += shift
    agent.requires_grad_(True)
    loss = algorithm.loss(states, rewards, tuple(old))
    gradients = torch.autograd.grad(loss, list(agent.parameters()), allow_unused=True)
    assert all(g is None or g.abs().max() == 0 for g in gradients)


def test_ppo_loss_by_hand():
    """Ratios of 1.5 and 0.5 with advantages of 1/2 and -1/2, both ways round."""
    agent = TableAgent(torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.25, 0.75]]).log())
    half = torch.full((1, 2), 0.5).log()
    loss = PPO(agent, clip=0.2).loss([], torch.tensor([[1.0, 0.0]]), (half, half))
    logit = 0.5 * (1.2 * 0.5 + 0.8 * -0.5)  # both are clipped
    feature = 0.5 * (0.5 * 0.5 + 1.5 * -0.5)  # neither: it lost where it should have gained
    assert float(loss) == pytest.approx(-(logit + feature))


def test_ppo_compares_all_epochs_with_the_policy_at_their_beginning(monkeypatch):
    agent = TableAgent(*torch.randn(2, 4, 2))
    buffer = RolloutBuffer([1, 1], 1.0)
    for _ in range(2):
        buffer.add([torch.zeros(4, 1)] * 2, torch.rand(4, 2), torch.Generator())
    algorithm = PPO(agent, epochs=3)
    beginning, loss, seen = [head.detach() for head in agent([])], algorithm.loss, []

    def recording(states, rewards, old):
        seen.append(old)
        return loss(states, rewards, old)

    monkeypatch.setattr(algorithm, 'loss', recording)
    algorithm.update(buffer)
    assert len(seen) == 6
    for old in seen:
        assert all(torch.equal(*pair) for pair in zip(old, beginning))
    assert (agent([])[0] - beginning[0]).abs().max() > 1e-3


def test_dpg_critic_learns_what_actions_achieve():
    agent = PerTeacherAgent(SIZES, hidden=8)
    algorithm = DPG(agent, critic_optimizer=ADAM, noise=1.0)
    noise = algorithm.noise_generator()
    states, rewards, _ = bandit(256)
    first = float(algorithm.train_critic(states, rewards, 4, noise, 256))
    for _ in range(150):
        last = float(algorithm.train_critic(states, rewards, 4, noise, 256))
    assert last < 0.1 * first
    action = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    advantages = algorithm.advantage(torch.tensor([[1.0, 0.0]]))
    assert algorithm.action_value(torch.tensor([[1.0, 0.0]]), action) == advantages[0, 0] == 0.5


def test_dpg_critic_sees_the_states_as_the_agent_does():
    """Standardised, where it learns and where the agent ascends it."""
    agent = PerTeacherAgent(SIZES, hidden=8)
    algorithm, buffer = DPG(agent, critic_steps=2), RolloutBuffer(SIZES, 1.0)
    states, rewards, _ = bandit(64)
    buffer.add([100 * state + 30 for state in states], rewards, torch.Generator())
    seen = []
    algorithm.critic.register_forward_pre_hook(lambda critic, args: seen.append(args[0]))
    algorithm.update(buffer)
    expected = agent.normalize(buffer.get(0, torch.device('cpu'))[0])
    assert len(seen) == 3 and expected[0].abs().max() < 10
    for observed in seen:
        assert all(torch.equal(*pair) for pair in zip(observed, expected))


def test_exploration_noise_is_on_the_log_probabilities():
    agent = PerTeacherAgent(SIZES, hidden=8)
    states, _, _ = bandit(4000)
    log_probs = [head.detach() for head in agent(states)]
    for noise in (0.0, 0.3):
        algorithm = DPG(agent, noise=noise)
        action = algorithm.explore(log_probs, 4000, algorithm.noise_generator())
        for head, drawn in zip(log_probs, action.log().split(2, dim=1)):
            # The logarithm of the odds has the noise of both teachers.
            odds = (drawn - head).diff(dim=1)
            assert float(odds.std()) == pytest.approx(2**0.5 * noise, rel=0.05, abs=1e-6)


@pytest.mark.parametrize('world_size', [2, 3])
def test_exploration_of_several_processes_is_that_of_one(monkeypatch, world_size):
    """Each image has the noise that it has in one process, head by head, step by step."""
    agent = PerTeacherAgent(SIZES, hidden=8)
    states, _, _ = bandit(12)
    actions = []
    for world, rank in [(1, 0), *((world_size, rank) for rank in range(world_size))]:
        monkeypatch.setattr('mtkdrl_mm.rl.algorithms.dpg.get_world_size', lambda world=world: world)
        monkeypatch.setattr('mtkdrl_mm.utils.distributed.get_world_size', lambda world=world: world)
        monkeypatch.setattr('mtkdrl_mm.utils.distributed.get_rank', lambda rank=rank: rank)
        algorithm = DPG(agent, noise=1.0)
        noise = algorithm.noise_generator()
        own = [state[rank::world] for state in states]
        with torch.no_grad():
            proposed = agent(own)
        actions.append([algorithm.explore(proposed, 12, noise) for _ in range(3)])
    one, several = actions[0], actions[1:]
    for step in range(3):
        assert all(
            torch.allclose(several[rank][step], one[step][rank::world_size], atol=1e-6)
            for rank in range(world_size)
        )
    assert not torch.allclose(one[0], one[1], atol=1e-2)


def test_ddpg_noise_does_not_depend_on_a_full_replay():
    agent = PerTeacherAgent(SIZES, hidden=8)
    drawn = []
    for budget in (0.001, 1.0):
        algorithm = DDPG(agent, replay_budget=budget)
        noise, draws = algorithm.noise_generator(), algorithm.replay_generator()
        algorithm.extend_replay(buffer_of(0), draws)
        assert (algorithm.replay.seen > len(algorithm.replay)) == (budget == 0.001)
        drawn.append(algorithm.explore(agent(bandit(12)[0]), 12, noise).detach())
    assert torch.equal(*drawn)


def test_ddpg_shares_its_steps_with_the_replay(monkeypatch):
    """As many steps as DPG takes, so that replay costs no more."""
    agent = PerTeacherAgent(SIZES, hidden=8)
    algorithm = DDPG(agent, critic_steps=5)
    steps = []
    train_critic = algorithm.train_critic

    def counting(states, rewards, count, *args, **kwargs):
        steps.append(count)
        return train_critic(states, rewards, count, *args, **kwargs)

    monkeypatch.setattr(algorithm, 'train_critic', counting)
    algorithm.update(buffer_of(0, steps=2))
    assert steps == [3, 2, 3, 2]
    with pytest.raises(InputError, match='`critic_steps` must be at least 2'):
        DDPG(agent, critic_steps=1)


def test_ddpg_target_follows_and_replay_is_bounded():
    agent = PerTeacherAgent(SIZES, hidden=8)
    algorithm = DDPG(agent, tau=0.5, replay_budget=0.001)
    for update in range(4):
        algorithm.update(buffer_of(update))
    assert len(algorithm.replay) == algorithm.replay.capacity < 4 * 8 * 32
    assert algorithm.replay.seen == 4 * 8 * 32
    fast = torch.cat([p.flatten() for p in algorithm.critic.parameters()])
    slow = torch.cat([p.flatten() for p in algorithm.target_critic.parameters()])
    assert 0 < (fast - slow).abs().max() < 0.1


def test_ddpg_learns_from_earlier_buffers_and_ascends_the_target(monkeypatch):
    """The chosen step of the replay, and the slow copy, number by number."""
    agent = PerTeacherAgent(SIZES, hidden=8)
    algorithm = DDPG(agent, tau=0.25)
    algorithm.extend_replay(buffer_of(1, steps=50), algorithm.replay_generator())
    before = copy.deepcopy(algorithm.critic)
    chosen = int(torch.randint(51, (), generator=algorithm.replay_generator()))
    learned, ascended = [], []
    train_critic, loss = algorithm.train_critic, algorithm.loss

    def recording_critic(states, rewards, *args):
        learned.append((states, rewards))
        return train_critic(states, rewards, *args)

    def recording_loss(states, critic):
        ascended.append(critic)
        return loss(states, critic)

    monkeypatch.setattr(algorithm, 'train_critic', recording_critic)
    monkeypatch.setattr(algorithm, 'loss', recording_loss)
    buffer = buffer_of(0, steps=1)
    algorithm.update(buffer)
    cpu = torch.device('cpu')
    expected = [buffer.get(0, cpu), algorithm.replay.get(chosen, cpu)]
    assert chosen < 50
    for (states, rewards), (old_states, old_rewards) in zip(learned, expected, strict=True):
        assert all(torch.equal(*pair) for pair in zip(states, old_states))
        assert torch.equal(rewards, old_rewards)
    assert len(ascended) == 1 and ascended[0] is algorithm.target_critic
    parameters = (m.parameters() for m in (algorithm.target_critic, before, algorithm.critic))
    for slow, first, fast in zip(*parameters):
        torch.testing.assert_close(slow, 0.75 * first + 0.25 * fast)
        assert (fast - first).abs().max() > 1e-4


def test_ddpg_goes_on_with_a_smaller_replay():
    """Steps of which no image is left are none: one of them might be drawn."""
    agent = PerTeacherAgent(SIZES, hidden=8)
    before = DDPG(agent, replay_budget=1.0)
    before.extend_replay(buffer_of(0), before.replay_generator())
    states, rewards, _ = bandit(2)
    small = RolloutBuffer(SIZES, 1.0)
    small.add(states, rewards, torch.Generator())
    before.extend_replay(small, before.replay_generator())
    assert before.replay.num_steps == 9
    after = DDPG(agent, replay_budget=4.5 * before.replay.bytes_per_image / 2**20)
    after.load_state_dict(before.state_dict())
    # Four of 258 images, of which the last step has two: the rows 0, 64, 129 and 193.
    assert len(after.replay) == 4 and after.replay.seen == 258
    steps = list(after.replay.iterate(torch.device('cpu')))
    assert [len(rewards) for _, rewards in steps] == [1, 1, 1, 1]
    kept = torch.cat([rewards for _, rewards in steps])
    assert torch.equal(kept, before.replay.rewards[[0, 64, 129, 193]])
    # Ten updates draw ten times from what were nine steps, five of them empty.
    for update in range(1, 11):
        after.update(buffer_of(update, steps=1))


@pytest.mark.parametrize('standardize', [True, False])
def test_attention_agent_trained_on_one_pool_works_on_another(standardize):
    """Three teachers of other sizes and another order, the same parameters."""
    small = AttentionAgent(
        StateLayout((5, 9), 0), embedding_bins=4, hidden=16, heads=2, standardize=standardize
    )
    large = AttentionAgent(
        StateLayout((9, 5, 17), 0), embedding_bins=4, hidden=16, heads=2, standardize=standardize
    )
    large.load_state_dict(small.state_dict())
    states = [torch.randn(5, 8), torch.randn(5, 12)]
    more = [states[1], states[0], torch.randn(5, 20)]
    assert all(head.shape == (5, 3) for head in large(more))
    # Order of the teachers does not matter.
    for a, b in zip(small(states), large([states[1], states[0]])):
        torch.testing.assert_close(a, b.flip(1))
    # A third teacher is seen by the others.
    logit, _ = small.scores(small.normalize(states))
    other, _ = large.scores(large.normalize(more))
    assert (logit - other[:, :2].flip(1)).abs().max() > 1e-4


def test_attention_agent_learns_with_shared_statistics():
    agent = AttentionAgent(StateLayout((0, 0), 1, gap=True, performance=False), hidden=32)
    assert agent.state_sizes == SIZES
    algorithm = ALGORITHMS['pg'](agent)
    for update in range(25):
        algorithm.update(buffer_of(update))
    states, _, right = bandit(500, 999_999)
    for log_probs in agent(states):
        assert log_probs.exp().gather(1, right[:, None]).mean() > 0.8


@pytest.mark.parametrize(
    ('build', 'words'),
    [
        (partial(PPO, clip=0.0), '`clip` must be greater than 0, but is 0.0'),
        (partial(DPG, noise=-1.0), '`noise` must be at least 0, but is -1.0'),
        (partial(DDPG, tau=0.0), '`tau` must be greater than 0 and at most 1, but is 0.0'),
        (partial(DPG, critic_optimizer=dict(type='Adm')), 'Unknown optimizer "Adm"'),
    ],
)
def test_bad_numbers(build, words):
    with pytest.raises(InputError, match=words):
        build(PerTeacherAgent(SIZES))


@pytest.mark.parametrize('algorithm', [DPG, DDPG])
def test_every_run_has_a_critic_of_its_own(algorithm):
    def critic(seed, drawn=0):
        agent = PerTeacherAgent(SIZES)
        torch.manual_seed(drawn)
        made = algorithm(agent, seed=seed)
        return torch.cat([p.detach().flatten() for p in made.critic.parameters()])

    assert torch.equal(critic(1), critic(1, drawn=5))  # of the run's seed alone
    assert (critic(1) - critic(2)).abs().max() > 0.01
