# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Training of the agent without a runner."""

import copy

import pytest
import torch

from mtkdrl_mm.models import MTKDRL
from mtkdrl_mm.rl import (
    AgentTrainer,
    BatchZScoreAdvantage,
    ClosenessReward,
    EmbeddingProbes,
    LabelProbabilityReward,
    MixtureLikelihood,
    PolicyGradient,
    RolloutBuffer,
    StandardizedAdvantage,
    StudentLossReward,
    WeightedBCE,
    best_static_weights,
)
from mtkdrl_mm.utils import InputError


@pytest.fixture
def make_trainer(make_terms, make_spec):
    def make(seed=0, images=1000):
        torch.manual_seed(0)
        weighting = MTKDRL(make_spec(make_terms()), agent='JointAgent')
        sizes = weighting.agent.state_sizes
        buffer = RolloutBuffer(sizes, images * (2 * sum(sizes) + 4 * 3) / 2**20)
        algorithm = PolicyGradient(weighting.agent, seed=seed)
        return weighting, AgentTrainer(algorithm, LabelProbabilityReward(), buffer, seed)

    return make


def observe(make_terms, weighting, trainer, steps):
    for step in steps:
        terms = make_terms(seed=step, dtype=torch.float32)
        trainer.observe(terms, weighting(terms), step)


def test_rewards_are_returned_and_kept(make_trainer, make_terms):
    weighting, trainer = make_trainer()
    terms = make_terms(dtype=torch.float32)
    action = weighting(terms)
    rewards = trainer.observe(terms, action, 0)
    assert torch.equal(rewards, LabelProbabilityReward()(terms, action))
    states, kept = trainer.buffer.get(0, torch.device('cpu'))
    assert torch.equal(kept, rewards)
    for ours, state in zip(states, action.states):
        torch.testing.assert_close(ours, state, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda r: r.mean(dim=1, keepdim=True), 'one number per image and teacher, of shape'),
        (lambda r: r.mean(dim=1), 'one number per image and teacher, of shape'),
        (lambda r: r > 0.5, r'floating-point numbers without gradient: end it with'),
        (lambda r: r.clone().requires_grad_(), r'floating-point numbers without gradient'),
    ],
)
def test_what_an_own_reward_returns_is_checked(make_trainer, make_terms, change, message):
    """A column would be taken for the reward of every teacher."""

    class Own(LabelProbabilityReward):
        def __call__(self, terms, weights):
            return change(super().__call__(terms, weights))

    weighting, trainer = make_trainer()
    trainer.reward = Own()
    terms = make_terms(dtype=torch.float32)
    with pytest.raises(InputError, match=f'^The rewards of Own must be {message}'):
        trainer.observe(terms, weighting(terms), 0)
    assert len(trainer.buffer) == 0


def test_what_an_own_advantage_returns_is_checked(make_trainer, make_terms):
    class Column(StandardizedAdvantage):
        def __call__(self, rewards):
            return super().__call__(rewards).mean(dim=1, keepdim=True)

    class Step(StandardizedAdvantage):
        def normalize_step(self, rewards):
            return rewards[:, :1]

    weighting, trainer = make_trainer()
    trainer.algorithm.advantage = Column()
    observe(make_terms, weighting, trainer, range(2))
    with pytest.raises(InputError, match=r'^The advantages of Column must be one number per image'):
        trainer.update()
    trainer.algorithm.advantage = Step()
    with pytest.raises(InputError, match=r'^What `normalize_step` of Step returns must be one'):
        observe(make_terms, weighting, trainer, [2])


def test_state_of_an_own_reward_is_saved(make_trainer, make_terms):
    class Centred(LabelProbabilityReward):
        mean = 0.0

        def __call__(self, terms, weights):
            rewards = super().__call__(terms, weights)
            self.mean += 0.1 * (float(rewards.mean()) - self.mean)
            return rewards - self.mean

        def state_dict(self):
            return dict(mean=self.mean)

        def load_state_dict(self, state):
            self.mean = state['mean']

    weighting, trainer = make_trainer()
    assert 'reward' not in trainer.state_dict()
    trainer.reward = Centred()
    observe(make_terms, weighting, trainer, range(3))
    trainer.gather()
    state = trainer.state_dict()
    assert state['reward'] == dict(mean=trainer.reward.mean) and trainer.reward.mean != 0
    _, other = make_trainer()
    other.reward = Centred()
    other.load_state_dict(state)
    assert other.reward.mean == trainer.reward.mean


def test_an_algorithm_may_refuse_reward_and_advantage(make_trainer):
    weighting, trainer = make_trainer()
    released = WeightedBCE(weighting.agent, advantage=BatchZScoreAdvantage())
    for reward in (ClosenessReward(), LabelProbabilityReward(), StudentLossReward()):
        AgentTrainer(released, reward, trainer.buffer, 0)
        with pytest.raises(InputError, match='as those of "MinMaxAdvantage" may be: set `adv'):
            AgentTrainer(WeightedBCE(weighting.agent), reward, trainer.buffer, 0)
    algorithm = MixtureLikelihood(weighting.agent)
    AgentTrainer(algorithm, LabelProbabilityReward(), trainer.buffer, 0)
    gradient = PolicyGradient(weighting.agent)
    AgentTrainer(gradient, ClosenessReward(), trainer.buffer, 0)
    with pytest.raises(InputError, match='"PolicyGradient" learns nothing from the reward "Studen'):
        AgentTrainer(gradient, StudentLossReward(), trainer.buffer, 0)
    for reward in (ClosenessReward(), StudentLossReward()):
        with pytest.raises(InputError, match=f'reward is "{type(reward).__name__}": set the rew'):
            AgentTrainer(algorithm, reward, trainer.buffer, 0)


def test_update_learns_and_clears(make_trainer, make_terms):
    weighting, trainer = make_trainer()
    before = weighting.agent.stem[0].weight.clone()
    assert trainer.update() is None
    observe(make_terms, weighting, trainer, range(3))
    log, feature_weights = trainer.update()
    assert set(log) == {'agent_loss'} and feature_weights is None
    assert len(trainer.buffer) == 0 and trainer.algorithm.updates == 1
    assert not torch.equal(weighting.agent.stem[0].weight, before)


@pytest.mark.parametrize('images', [1000, 20])
def test_images_are_compared_with_those_of_their_own_step(make_trainer, make_terms, images):
    """Whatever a full buffer keeps of it, beside images of other steps."""
    weighting, trainer = make_trainer(images=images)
    trainer.algorithm = WeightedBCE(weighting.agent, advantage=BatchZScoreAdvantage())
    trainer.reward, known = StudentLossReward(), {}
    for step in range(8):
        terms = make_terms(seed=step, dtype=torch.float32)
        action = weighting(terms)
        rewards = trainer.observe(terms, action, step).double()
        assert torch.equal(rewards.float(), StudentLossReward()(terms, action))
        scores = (rewards - rewards.mean()) / rewards.std(correction=0)
        for state, score in zip(action.states[0].half(), scores.clamp(0, 1).float()):
            known[tuple(state.tolist())] = score
    kept = [
        (tuple(state.tolist()), advantage)
        for states, advantages in trainer.buffer.iterate(torch.device('cpu'))
        for state, advantage in zip(states[0], trainer.algorithm.advantage(advantages))
    ]
    assert len(kept) == min(images, 48) == len(trainer.buffer)
    for state, advantage in kept:
        torch.testing.assert_close(advantage, known[state])
    assert len({float(advantage[0]) for _, advantage in kept}) > 3


def test_stacking_keeps_probabilities_whatever_the_advantage(make_trainer, make_terms):
    weighting, trainer = make_trainer()
    trainer.algorithm = MixtureLikelihood(weighting.agent, advantage=BatchZScoreAdvantage())
    terms = make_terms(dtype=torch.float32)
    rewards = trainer.observe(terms, weighting(terms), 0)
    assert torch.equal(trainer.buffer.rewards, rewards)


def test_rewards_count_as_far_as_teachers_have_not_memorised_the_students_images(
    make_trainer, make_terms
):
    weighting, plain = make_trainer()
    algorithm = MixtureLikelihood(weighting.agent)
    trainer = AgentTrainer(
        algorithm, LabelProbabilityReward(), plain.buffer, 0, ['a', 'b', 'c'], True
    )
    terms = make_terms(dtype=torch.float32)
    rewards = trainer.observe(terms, weighting(terms), 0)
    known = make_terms(seed=1, dtype=torch.float32)
    known.teachers[1].logits[torch.arange(6), known.labels] += 6  # "b" knows these labels
    trainer.observe_student(known)
    share = copy.deepcopy(trainer.memorised).estimate(rewards)
    assert share[1] > 0.5 > share[0]
    learned = []
    algorithm.loss = lambda states, values: (
        learned.append(values) or MixtureLikelihood.loss(algorithm, states, values)
    )
    results = trainer.update().log
    torch.testing.assert_close(learned[0], rewards * (1 - share))
    assert {key: results[f'memorised/{key}'] for key in 'abc'} == dict(zip('abc', share.tolist()))
    # What was seen counts once.
    trainer.observe(terms, weighting(terms), 1)
    assert trainer.update().log['memorised/b'] == 0


@pytest.mark.parametrize('discount', [False, True])
def test_feature_weights_are_the_best_ones_of_the_probes(make_trainer, make_terms, discount):
    """Of what teachers have not memorised, if that is discounted."""
    weighting, plain = make_trainer()
    trainer = AgentTrainer(
        MixtureLikelihood(weighting.agent),
        LabelProbabilityReward(),
        plain.buffer,
        seed=0,
        discount_memorised=discount,
        probes=EmbeddingProbes((3, 4, 5), 5),
    )
    probes = EmbeddingProbes((3, 4, 5), 5)
    for step in range(6):
        terms = make_terms(seed=step, dtype=torch.float32)
        terms.teachers[1].embedding[:, 0] += 2 * terms.labels
        terms.teachers[2].embedding[:, 0] += 3 * terms.labels
        trainer.observe(terms, weighting(terms), step)
        probes.observe(terms)
    counts = torch.ones(3)
    if discount:
        known = make_terms(seed=1, dtype=torch.float32)
        known.teachers[2].logits[torch.arange(6), known.labels] += 9
        trainer.observe_student(known)
        counts = 1 - copy.deepcopy(trainer.memorised).estimate(trainer.buffer.rewards)
    found = trainer.update().feature_weights
    expected = best_static_weights(counts * probes.label_probabilities())
    assert torch.equal(found, expected)
    assert int(expected.argmax()) == (1 if discount else 2)
    # Its images count once.
    other = make_terms(seed=9, dtype=torch.float32)
    trainer.observe(other, weighting(other), 6)
    assert len(trainer.probes.label_probabilities()) == 6


@pytest.mark.parametrize('call', ['update', 'gather'])
def test_teacher_whose_embeddings_are_no_numbers(make_terms, make_spec, call):
    # Without embeddings in the states, which would be bad first.
    weighting = MTKDRL(make_spec(make_terms()), agent='JointAgent', state=dict(embedding=False))
    buffer = RolloutBuffer(weighting.agent.state_sizes, 1.0)
    algorithm = PolicyGradient(weighting.agent)
    trainer = AgentTrainer(
        algorithm, LabelProbabilityReward(), buffer, 0, 'abc', probes=EmbeddingProbes((3, 4, 5), 5)
    )
    terms = make_terms(dtype=torch.float32)
    terms.teachers[1].embedding[2] = float('inf')
    trainer.observe(terms, weighting(terms), 0)
    message = r'features are worth cannot be told: .* teacher "b" on 1 of the images\. Check'
    with pytest.raises(InputError, match=message):
        getattr(trainer, call)()
    assert algorithm.updates == 0


@pytest.mark.parametrize('call', ['update', 'gather'])
def test_teacher_whose_answers_about_the_students_images_are_no_numbers(
    make_trainer, make_terms, call
):
    weighting, plain = make_trainer()
    algorithm = MixtureLikelihood(weighting.agent)
    trainer = AgentTrainer(algorithm, LabelProbabilityReward(), plain.buffer, 0, 'abc', True)
    terms = make_terms(dtype=torch.float32)
    trainer.observe(terms, weighting(terms), 0)
    bad = make_terms(seed=1, dtype=torch.float32)
    bad.teachers[2].logits[3] = float('nan')
    trainer.observe_student(bad)
    with pytest.raises(InputError, match=r'cannot be told: .* teacher "c" on 1 of the images\. Ch'):
        getattr(trainer, call)()
    assert algorithm.updates == 0 and len(trainer.buffer) == 6


def test_teacher_of_a_bad_reward_is_named_where_images_are_compared(make_trainer, make_terms):
    weighting, trainer = make_trainer()
    trainer.algorithm = WeightedBCE(weighting.agent, advantage=BatchZScoreAdvantage())
    terms = make_terms(dtype=torch.float32)
    rewards = LabelProbabilityReward()(terms, weighting(terms))
    rewards[2, 1] = float('nan')
    trainer.reward = lambda terms, weights: rewards
    trainer.observe(terms, weighting(terms), 0)
    with pytest.raises(
        InputError, match=r'buffer: the rewards of teacher "1" are not finite on 1 '
    ):
        trainer.update()


@pytest.mark.parametrize('call', ['update', 'gather'])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_non_finite_numbers_move_nothing(make_trainer, make_terms, value, call):
    weighting, trainer = make_trainer()
    trainer.algorithm.advantage = StandardizedAdvantage()
    observe(make_terms, weighting, trainer, range(3))
    trainer.update()
    observe(make_terms, weighting, trainer, range(3, 6))
    trainer.buffer._rewards[7, 1] = trainer.buffer._states[7, -1] = value
    trainer.buffer._states[9, -2] = value
    before = copy.deepcopy((weighting.state_dict(), trainer.state_dict()))
    with pytest.raises(InputError) as error:
        getattr(trainer, call)()
    assert str(error.value) == (
        'The agent cannot learn from the 18 images of its rollout buffer: the states of teacher '
        '"2" are not finite on 2 of them; the rewards of teacher "1" are not finite on 1 of them. '
        'Where several teachers are named, check what they share: the images, the student and '
        'its learning rate, or the reward "LabelProbabilityReward".'
    )
    trainer.buffer._states[[7, 9]] = 0
    with pytest.raises(
        InputError, match=r'"1" are not finite on 1 of them\. Check that teacher, or'
    ):
        getattr(trainer, call)()
    trainer.buffer._rewards[7] = 0
    for key, tensor in weighting.state_dict().items():
        assert torch.equal(tensor, before[0][key]), key
    assert trainer.algorithm.advantage.state_dict() == before[1]['algorithm']['advantage']
    assert trainer.algorithm.updates == 1 and len(trainer.buffer) == 18
    assert trainer.update() is not None


@pytest.mark.parametrize('stop', [1, 3])
def test_resumes_exactly_with_a_full_buffer(make_trainer, make_terms, stop):
    weighting, whole = make_trainer(images=20)
    observe(make_terms, weighting, whole, range(6))
    whole.update()

    first_weighting, first = make_trainer(images=20)
    observe(make_terms, first_weighting, first, range(stop))
    second_weighting, second = make_trainer(images=20)
    second_weighting.load_state_dict(first_weighting.state_dict())
    second.load_state_dict(first.state_dict())
    observe(make_terms, second_weighting, second, range(stop, 6))
    assert second.buffer.seen == 36 > second.buffer.capacity == 20
    second.update()
    for ours, expected in zip(second_weighting.parameters(), weighting.parameters()):
        assert torch.equal(ours, expected)


def test_what_a_full_buffer_keeps_depends_on_the_seed(make_trainer, make_terms):
    kept = []
    for seed in (0, 1, 0):
        weighting, trainer = make_trainer(seed, images=8)
        observe(make_terms, weighting, trainer, range(6))
        kept.append(trainer.buffer.rewards.clone())
    assert torch.equal(kept[0], kept[2]) and not torch.equal(kept[0], kept[1])
