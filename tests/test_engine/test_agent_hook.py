# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Schedule of the agent's training."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import EpochBasedTrainLoop

from mtkdrl_mm.engine.hooks import AgentHook
from mtkdrl_mm.rl import (
    ClosenessReward,
    LabelProbabilityReward,
    MinMaxAdvantage,
    PolicyGradient,
    agent_trainer,
)
from mtkdrl_mm.utils import InputError


class Loader(list):
    """A loader whose data set says nothing of classes."""

    def __init__(self, batches):
        super().__init__(batches)
        self.dataset = SimpleNamespace()


class Training:
    """Runs the hooks as the runner does; one batch a step, `length` steps an epoch."""

    def __init__(self, make_runner, distiller, batch, length=4, by_epoch=True, **kwargs):
        loop = object.__new__(EpochBasedTrainLoop) if by_epoch else SimpleNamespace()
        loop.dataloader = Loader(range(length))
        self.hook = AgentHook(**kwargs)
        self.runner = make_runner(distiller, train_loop=loop, hooks=[self.hook])
        self.distiller, self.batch, self.length = distiller, batch, length
        self.records = []
        distiller.register_step_hook(lambda *record: self.records.append(record))

    def start(self, checkpoint=None):
        if checkpoint is not None:
            self.runner._resume = True
            self.hook.after_load_checkpoint(self.runner, checkpoint)
        self.hook.before_train(self.runner)
        return self

    def step(self, count=1):
        runner = self.runner
        for _ in range(count):
            index = runner.iter % self.length
            self.hook.before_train_iter(runner, index)
            inputs, samples = self.batch
            shift = torch.randn(1, 3, 1, 1, generator=torch.Generator().manual_seed(runner.iter))
            self.distiller.train()(inputs + shift, samples, mode='loss')
            self.hook.after_train_iter(runner, index)
            runner.iter += 1
            if runner.iter % self.length == 0:
                self.hook.after_train_epoch(runner)
                runner.epoch += 1
        return self

    def save(self):
        checkpoint = {}
        self.hook.before_save_checkpoint(self.runner, checkpoint)
        return checkpoint

    def agent(self):
        return {k: v.clone() for k, v in self.distiller.weighting.agent.state_dict().items()}

    def scalar(self, name):
        return self.runner.message_hub.get_scalar(f'train/{name}').current()


@pytest.fixture
def train(make_runner, make_distiller, make_batch):
    """Function that makes a training of a distiller with MTKDRL weighting."""

    def make(**kwargs):
        distiller = make_distiller(weighting='MTKDRL')
        return Training(make_runner, distiller, make_batch(4), **kwargs)

    return make


def equal(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ('reward', 'count'), [('ClosenessReward', 0), ('LabelProbabilityReward', 1)]
)
def test_labels_that_teachers_may_know_are_warned_of(train, monkeypatch, reward, count):
    seen = []
    training = train(reward=reward)
    monkeypatch.setattr(training.runner.logger, 'warning', seen.append)
    training.start()
    assert len(seen) == count
    assert all('a teacher that knows their labels by heart looks best' in line for line in seen)


def test_warm_up_by_epochs(train):
    training = train(warmup_epochs=2).start().step(12)
    for index, (_, weights) in enumerate(training.records):
        warm = torch.equal(weights.logit, torch.full((4, 2), 0.5))
        assert warm == (index < 8), index


def test_warm_up_by_iterations(train):
    training = train(warmup_iters=3, update_interval=100).start().step(6)
    for index, (_, weights) in enumerate(training.records):
        warm = torch.equal(weights.logit, torch.full((4, 2), 0.5))
        assert warm == (index < 3), index


def test_no_warm_up(train):
    training = train(warmup_epochs=0).start().step(1)
    _, weights = training.records[0]
    assert (weights.logit - 0.5).abs().max() > 1e-3


RELEASED = dict(
    algorithm='WeightedBCE', reward='StudentLossReward', advantage='BatchZScoreAdvantage'
)


@pytest.mark.parametrize('reward', [LabelProbabilityReward, ClosenessReward])
def test_phase_1_records_states_and_rewards_and_freezes_the_agent(train, reward):
    training = train(reward=reward.__name__).start()
    before = training.agent()
    training.step(3)
    buffer = training.hook.trainer.buffer
    assert len(buffer) == 12 and buffer.num_steps == 3
    for index, (terms, weights) in enumerate(training.records):
        states, rewards = buffer.get(index, torch.device('cpu'))
        torch.testing.assert_close(rewards, reward()(terms, weights))
        for ours, seen in zip(states, weights.states):
            assert torch.equal(ours, seen.half().float())
    assert equal(before, training.agent())


@pytest.mark.parametrize('options', [RELEASED, dict(reward='ClosenessReward')])
def test_the_hook_leaves_the_students_losses_as_they_are(train, make_batch, options):
    """Values and gradients of every term, with the hook watching and without."""
    gradients = []
    for watched in (True, False):
        training = train(**options, warmup_epochs=0)
        if watched:
            training.start()
            training.hook.before_train_iter(training.runner, 0)
        training.distiller.weighting.warming_up = False
        losses = training.distiller.train()(*training.batch, mode='loss')
        student = list(training.distiller.student.parameters())
        gradients.append(
            {
                name: torch.autograd.grad(loss, student, retain_graph=True, allow_unused=True)
                for name, loss in losses.items()
            }
        )
    for name, expected in gradients[1].items():
        for ours, theirs in zip(gradients[0][name], expected):
            assert (ours is None) == (theirs is None)
            assert ours is None or torch.equal(ours, theirs)


def test_phase_2_at_the_end_of_the_epoch(train):
    training = train().start()
    fresh = training.agent()
    training.step(3)
    assert training.hook.trainer.algorithm.updates == 0
    student = {k: v.clone() for k, v in training.distiller.student.named_parameters()}
    training.step(1)
    # The buffer of the warm-up pre-trains the agent.
    assert training.hook.trainer.algorithm.updates == 1 and len(training.hook.trainer.buffer) == 0
    assert not equal(fresh, training.agent())
    assert equal(student, dict(training.distiller.student.named_parameters()))
    training.step(4)
    assert training.hook.trainer.algorithm.updates == 2


def test_phase_2_every_few_iterations(train):
    training = train(update_interval=3).start()
    updates = []
    for _ in range(9):
        training.step()
        updates.append(training.hook.trainer.algorithm.updates)
    # across the ends of the epochs after 4 and 8
    assert updates == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert len(training.hook.trainer.buffer) == 0
    training.step()
    assert len(training.hook.trainer.buffer) == 4


def test_every_step_and_process_draws_its_own_numbers_for_the_buffer(train, monkeypatch):
    def draws_of(rank):
        draws = []
        monkeypatch.setattr(agent_trainer, 'get_rank', lambda: rank)
        training = train().start()
        monkeypatch.setattr(
            training.hook.trainer.buffer,
            'add',
            lambda states, rewards, generator: draws.append(torch.rand(2, generator=generator)),
        )
        training.step(5)
        return torch.cat(draws)

    first, second = draws_of(0), draws_of(1)
    assert len(torch.cat([first, second]).unique()) == 2 * 5 * 2
    assert torch.equal(draws_of(1), second)  # whatever was drawn before


def test_defaults_are_the_published_method(train):
    training = train().start()
    trainer = training.hook.trainer
    assert type(trainer.reward) is ClosenessReward
    assert type(trainer.algorithm) is PolicyGradient
    assert type(trainer.algorithm.advantage) is MinMaxAdvantage
    assert trainer.algorithm.entropy_weight == 0 and trainer.algorithm.epochs == 1
    assert training.hook.warmup_epochs == 1 and training.hook.update_interval is None


def test_agent_improves_on_its_own_rewards(train):
    training = train(
        reward='LabelProbabilityReward',
        algorithm=dict(type='PolicyGradient', optimizer=dict(type='Adam', lr=0.01), epochs=30),
    )
    training.start().step(3)
    states, rewards = [], []
    for terms, weights in training.records:
        states.append(weights.states)
        rewards.append(LabelProbabilityReward()(terms, weights))
    states = [torch.cat(parts) for parts in zip(*states)]
    advantage = training.hook.trainer.algorithm.advantage(torch.cat(rewards))

    def expected():
        agent = training.distiller.weighting.agent
        return [float((policy.exp() * advantage).sum(1).mean()) for policy in agent(states)]

    before = expected()
    training.step(1)
    for old, new in zip(before, expected()):
        assert new > old + 0.05


def test_every_step_is_logged(train):
    """mmengine's LoggerHook averages over its window."""
    training = train(length=6, reward='LabelProbabilityReward').start()
    for _ in range(3):
        training.step()
        terms, weights = training.records[-1]
        rewards = LabelProbabilityReward()(terms, weights).mean(dim=0)
        assert training.scalar('reward/a') == pytest.approx(rewards[0].item())
        assert training.scalar('reward/b') == pytest.approx(rewards[1].item())
        assert training.scalar('reward') == pytest.approx(rewards.mean().item())
        entropy = weights.policy_entropy.mean().item()
        assert training.scalar('policy_entropy') == pytest.approx(entropy)
    assert 'train/agent_loss' not in training.runner.message_hub.log_scalars
    training.step(3)
    assert 'train/agent_loss' in training.runner.message_hub.log_scalars


@pytest.mark.parametrize('stop', [4, 6])
def test_resumed_training_goes_on_exactly(train, stop):
    options = dict(
        advantage='StandardizedAdvantage',
        # two rows short of an epoch, so that the reservoir decides what stays
        buffer_budget=14.4 * (2 * (40 + 56) + 4 * 2) / 2**20,
    )
    whole = train(**options).start().step(12)
    first = train(**options).start().step(stop)
    assert whole.hook.trainer.buffer.capacity < 16
    checkpoint = first.save()['agent_hook']
    assert len(checkpoint['buffers']) == (0 if stop == 4 else 1)
    second = train(**options)
    second.distiller.load_state_dict(first.distiller.state_dict())
    second.runner.iter, second.runner.epoch = first.runner.iter, first.runner.epoch
    second.start(dict(agent_hook=checkpoint)).step(12 - stop)
    assert second.hook.trainer.algorithm.updates == whole.hook.trainer.algorithm.updates == 3
    assert equal(whole.agent(), second.agent())


def test_loading_without_resuming_starts_the_agent_afresh(train):
    first = train().start().step(6)
    second = train()
    second.hook.after_load_checkpoint(second.runner, first.save())  # _resume is False
    second.start()
    assert second.hook.trainer.algorithm.updates == 0 and len(second.hook.trainer.buffer) == 0


def test_buffers_are_dealt_out_to_another_number_of_processes(train):
    first = train().start().step(6)
    checkpoint = first.save()
    (state,) = checkpoint['agent_hook']['buffers']
    checkpoint['agent_hook']['buffers'] = [state, state]
    second = train().start(checkpoint)
    assert (len(second.hook.trainer.buffer), second.hook.trainer.buffer.seen) == (16, 16)
    assert second.hook.trainer.buffer.num_steps == 2  # two steps of 4 images on two processes each
    rewards = second.hook.trainer.buffer.get(0, torch.device('cpu'))[1]
    assert torch.equal(rewards, state['rewards'][:4].repeat_interleave(2, dim=0))


@pytest.mark.parametrize('last', [None, 'work_dirs/x/epoch_1.pth'])
def test_a_reward_that_is_no_number_ends_the_training_before_anything_is_saved(train, last):
    training = train().start().step(6)
    training.runner.message_hub.update_info('last_ckpt', last)
    training.hook.trainer.buffer._rewards[5, 1] = float('nan')
    before = training.agent()
    kept = f'The last good state is in {last}.' if last else 'No checkpoint had been saved yet.'
    message = (
        rf'the rewards of teacher "b" are not finite on 1 of them\..*ClosenessReward"\. {kept}$'
    )
    with pytest.raises(InputError, match=message):
        training.hook.gather_state()
    with pytest.raises(InputError, match=message):
        training.step(2)
    assert equal(training.agent(), before)


def test_resuming_with_a_smaller_budget_keeps_an_even_choice(train):
    checkpoint = train().start().step(3).save()
    budget = 4 * train().start().hook.trainer.buffer.bytes_per_image / 2**20
    second = train(buffer_budget=budget).start(checkpoint)
    (state,) = checkpoint['agent_hook']['buffers']
    assert (len(second.hook.trainer.buffer), second.hook.trainer.buffer.seen) == (4, 12)
    assert torch.equal(second.hook.trainer.buffer.rewards, state['rewards'][::3])


def test_agent_is_no_parameter_that_the_student_waits_for(train):
    training = train().start().step(5)
    assert not any(p.requires_grad for p in training.distiller.weighting.parameters())
    assert any(p.requires_grad for p in training.distiller.student.parameters())


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(reward='ClosnessReward'), 'reward "ClosnessReward". Did you mean "ClosenessReward"'),
        (dict(reward=dict(type='ClosenessReward', t=1)), 'reward "ClosenessReward" takes no arg'),
        (dict(algorithm='PolicyGradeint'), 'RL algorithm "PolicyGradeint". Did you mean "Policy'),
        (
            dict(algorithm=dict(type='PolicyGradient', entropy=0.1)),
            'takes no argument "entropy". Did you mean "entropy_weight"',
        ),
        (dict(advantage='MinMax'), 'advantage "MinMax". Did you mean "MinMaxAdvantage"'),
        (
            dict(algorithm='MixtureLikelihood'),
            '"MixtureLikelihood" needs a reward that is a probability, but the reward is "Closen',
        ),
        (
            dict(reward='StudentLossReward'),
            '"PolicyGradient" learns nothing from the reward "StudentLossReward", which .*: set '
            '`reward` to "ClosenessReward" or .* or `algorithm` to "WeightedBCE" and `advantage`',
        ),
        (
            dict(RELEASED, algorithm='PPO'),
            '"PPO" learns nothing from the reward "StudentLossReward"',
        ),
        (dict(algorithm='DDPG', reward='StudentLossReward'), '"DDPG" learns nothing from the rew'),
        (
            dict(algorithm='WeightedBCE', advantage='StandardizedAdvantage'),
            '"WeightedBCE" diverges where an advantage is negative, as those of "Standardized'
            'Advantage" may be: set `advantage` to "BatchZScoreAdvantage"',
        ),
        (dict(warmup_epochs=-1), '`warmup_epochs` must be at least 0'),
        (dict(warmup_iters=-1), '`warmup_iters` must be at least 0'),
        (dict(update_interval=0), '`update_interval` must be at least 1'),
        (dict(experience='val'), "`experience` of AgentHook must be 'training' or 'held_out'"),
        (dict(buffer_budget=0), '`buffer_budget` must be greater than 0'),
        (dict(buffer_budget=-5.0), '`buffer_budget` must be greater than 0, but is -5.0'),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(InputError, match=message):
        AgentHook(**kwargs)


@pytest.mark.parametrize(
    ('algorithm', 'message'),
    [
        (dict(type='PolicyGradient', entropy_weight=-1), '`entropy_weight` must be at least 0'),
        (
            dict(type='PPO', optimizer=dict(type='SGD', lrr=1)),
            'The optimizer "SGD" takes no argument "lrr". Did you mean "lr"',
        ),
        (dict(type='DPG', critic_optimizer=dict(type='Adm')), 'Unknown optimizer "Adm"'),
    ],
)
def test_bad_arguments_of_the_algorithm(train, algorithm, message):
    with pytest.raises(InputError, match=message):
        train(algorithm=algorithm).start()


def test_arguments_of_the_base_class_are_known_at_once():
    message = 'RL algorithm "DDPG" takes no argument "epoch". Did you mean "epochs"'
    with pytest.raises(InputError, match=message):
        AgentHook(algorithm=dict(type='DDPG', epoch=2))


def test_budget_that_holds_no_image(train):
    with pytest.raises(InputError, match=r'`buffer_budget` of AgentHook: .*holds no image'):
        train(buffer_budget=1e-5).start()


def test_iteration_based_training_needs_iterations(train):
    with pytest.raises(InputError, match='needs `warmup_iters` and `update_interval`'):
        train(by_epoch=False, warmup_iters=3).start()
    train(by_epoch=False, warmup_iters=3, update_interval=2).start()


def test_model_without_an_agent(make_runner, make_distiller):
    with pytest.raises(InputError, match='MTKDRL weighting, but the weighting is AVER'):
        AgentHook().before_train(make_runner(make_distiller(weighting='AVER')))
    with pytest.raises(InputError, match=r'AgentHook works with a MultiTeacherDistiller.*Linear'):
        AgentHook().before_train(make_runner(torch.nn.Linear(2, 2)))


def test_critic_is_of_the_runs_seed(make_runner, make_distiller, make_batch):
    critics = []
    for seed in (3, 4, 3):
        distiller = make_distiller(weighting='MTKDRL')
        training = Training(make_runner, distiller, make_batch(4), algorithm='DPG')
        training.runner.seed = seed
        training.start()
        assert training.hook.trainer.algorithm.seed == seed
        critics.append(training.hook.trainer.algorithm.critic.head.weight)
    assert torch.equal(critics[0], critics[2]) and not torch.equal(critics[0], critics[1])


def test_weighting_is_trained_only_with_its_hook(make_runner, make_distiller, make_batch):
    distiller = make_distiller(weighting='MTKDRL')
    distiller.weighting.has_trainer = False
    batch = make_batch(4)
    distiller.eval()(*batch, mode='loss')
    with pytest.raises(
        InputError, match=r'Nothing trains the weighting MTKDRL: add agent=dict\(type='
    ):
        distiller.train()(*batch, mode='loss')
    Training(make_runner, distiller, batch).start().step(1)
