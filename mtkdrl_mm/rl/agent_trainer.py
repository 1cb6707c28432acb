# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Training of the agent, apart from any schedule."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_reduce, get_rank
from torch import Tensor

from mtkdrl_mm.structures import AgentAction, BufferShards, StepTerms
from mtkdrl_mm.structures.step_terms import check_shape
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.distributed import broadcast_from_main
from mtkdrl_mm.utils.seeding import derive_seed

from .algorithms import Algorithm
from .embedding_probes import EmbeddingProbes
from .memorised_share import MEMORISED_KEY, MemorisedShare
from .reward import Reward
from .rollout_buffer import RolloutBuffer, redistribute
from .static_weights import best_static_weights


class AgentUpdate(NamedTuple):
    """What an update of the agent has found, the same on all processes.

    Attributes:
        log (dict[str, float]): What the algorithm reports, and the shares that were
            discounted.
        feature_weights (Tensor, optional): The feature weights by probes, shape (M,);
            None without probes.
    """

    log: dict[str, float]
    feature_weights: Tensor | None


class AgentTrainer:
    """Collects rollouts of an agent and updates it from them.

    In every training step of the student, :meth:`observe` computes the rewards
    and adds states and rewards to the buffer (phase 1). From time to time,
    :meth:`update` updates the agent from the buffer and clears it (phase 2).

    Args:
        algorithm (Algorithm): The RL algorithm, with the agent.
        reward (Reward): The reward.
        buffer (RolloutBuffer): The buffer, for the agent's states.
        seed (int): The run's seed.
        names (Sequence[str], optional): The teachers' names, for messages.
            Defaults to None: their numbers, from 0.
        discount_memorised (bool): Whether a teacher's rewards count only as far
            as it has not learned the student's images by heart, see
            :class:`MemorisedShare`. For an algorithm that needs probabilities and
            held-out images; :meth:`observe_student` is then called in every step of
            the student. Defaults to False.
        probes (EmbeddingProbes, optional): If given, every update finds feature
            weights, too, from the embeddings of the same images: the best ones that
            are the same for all images. For images that are observed just before an
            update: a checkpoint in between would not have their embeddings. Defaults
            to None.

    Raises:
        InputError: If the algorithm cannot learn from the reward or its advantage.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        reward: Reward,
        buffer: RolloutBuffer,
        seed: int,
        names: Sequence[str] | None = None,
        discount_memorised: bool = False,
        probes: EmbeddingProbes | None = None,
    ) -> None:
        algorithm.check_signal(reward, algorithm.advantage)
        self.algorithm = algorithm
        self.reward = reward
        self.buffer = buffer
        self.seed = seed
        self.names = names or [str(number) for number in range(buffer.num_teachers)]
        self.memorised = MemorisedShare(buffer.num_teachers) if discount_memorised else None
        self.probes = probes
        self._shards = BufferShards(buffer, redistribute)
        self._generator = torch.Generator()

    def observe(self, terms: StepTerms, action: AgentAction, iteration: int) -> Tensor:
        """Add one training step to the buffer. It is called on all processes.

        Args:
            terms (StepTerms): The step's terms for B images and M teachers.
            action (AgentAction): The weights of the step, and their states.
            iteration (int): The step's number. What the buffer drops once it
                is full depends on it and the process alone, so that a resumed
                run drops the same.

        Returns:
            Tensor: The rewards, shape (B, M).
        """
        rewards = self.reward(terms, action)
        name = type(self.reward).__name__
        shape = (len(action.states[0]), self.buffer.num_teachers)
        check_shape(rewards, shape, f'The rewards of {name}')
        if not rewards.is_floating_point() or rewards.requires_grad:
            raise InputError(
                f'The rewards of {name} must be floating-point numbers without gradient: end it '
                'with `.detach().float()`.'
            )
        self._add(action.states, rewards, iteration)
        if self.probes is not None:
            self.probes.observe(terms)
        return rewards

    def observe_student(self, terms: StepTerms) -> None:
        """See a step of the student, where the agent learns from held-out images.

        Args:
            terms (StepTerms): The step's terms for B images and M teachers.
        """
        if self.memorised is not None:
            self.memorised.observe(terms)

    def observe_none(self, iteration: int) -> None:
        """Take part in a step of which this process has no image, but others have.

        Args:
            iteration (int): The step's number.
        """
        states = [torch.zeros(0, size) for size in self.buffer.state_sizes]
        self._add(states, torch.zeros(0, self.buffer.num_teachers), iteration)

    def _add(self, states: Sequence[Tensor], rewards: Tensor, iteration: int) -> None:
        kept = self.algorithm.normalize_step(rewards)
        # One bad reward may spoil a whole step: keep it, so that its teacher can be named.
        kept = torch.where(kept.isfinite(), kept, rewards)
        self._generator.manual_seed(derive_seed(self.seed, 'rollout', iteration, get_rank()))
        self.buffer.add(states, kept, self._generator)

    def update(self) -> AgentUpdate | None:
        """Update the agent from the buffers of all processes, and clear them.

        It is called on all processes.

        Returns:
            AgentUpdate, optional: What was found; None if all buffers were empty.

        Raises:
            InputError: On all processes, if a state or a reward is not finite, in
                which case nothing has changed; or if the agent is not afterwards.
        """
        if self._check_finite() == 0:
            return None
        shares: dict[str, float] = {}
        counts = torch.ones(self.buffer.num_teachers)  # what a teacher's answers count
        if self.memorised is not None:
            share = self.memorised.estimate(self.buffer.rewards)
            self.memorised.clear()
            counts = share.neg() + 1
            self.buffer.scale_rewards(counts)
            shares = {MEMORISED_KEY + name: lam for name, lam in zip(self.names, share.tolist())}
        results = self.algorithm.update(self.buffer)
        self.buffer.clear()
        feature_weights = None
        if self.probes is not None:
            probabilities = self.probes.label_probabilities()
            self.probes.clear()
            # Machines may differ in the last digit of what is the same computation.
            weights = best_static_weights(counts * probabilities) if get_rank() == 0 else None
            feature_weights = broadcast_from_main(weights)
        return AgentUpdate(results | shares, feature_weights)

    def gather(self) -> None:
        """Collect the buffers of all processes for the next :meth:`state_dict`.

        Raises:
            InputError: On all processes, if a state or a reward is not finite: the
                agent could never learn from what is saved.
        """
        self._check_finite()
        self._shards.gather()
        if self.memorised is not None:
            self.memorised.gather()

    def _check_finite(self) -> int:
        """Images in the buffers of all processes, after a look at every number."""
        none = torch.zeros(len(self.names), dtype=torch.long)
        counts = [
            *self.buffer.count_non_finite(),
            none if self.memorised is None else self.memorised.count_non_finite(),
            none if self.probes is None else self.probes.count_non_finite(),
        ]
        total = torch.cat([torch.tensor([len(self.buffer)]), *counts])
        all_reduce(total)
        images = int(total[0])
        states, rewards, answers, embeddings = total[1:].view(4, -1).tolist()
        if any(states) or any(rewards):
            raise InputError(self._describe(images, states, rewards))
        if any(answers):
            raise InputError(
                "What has been memorised of the student's images cannot be told: not finite are "
                f'the outputs of {self._bad_teachers(answers)}. Check these teachers, or set '
                '`discount_memorised=False`.'
            )
        if any(embeddings):
            raise InputError(
                "What the teachers' features are worth cannot be told: not finite are the "
                f'embeddings of {self._bad_teachers(embeddings)}. Check these teachers, or set '
                "`feature_weights='agent'` of the weighting."
            )
        return images

    def _bad_teachers(self, images: list[int]) -> str:
        return ', '.join(
            f'teacher "{name}" on {count} of the images'
            for name, count in zip(self.names, images)
            if count > 0
        )

    def _describe(self, images: int, states: list[int], rewards: list[int]) -> str:
        faults = [
            f'the {what} of teacher "{name}" are not finite on {count} of them'
            for what, counts in (('states', states), ('rewards', rewards))
            for name, count in zip(self.names, counts)
            if count > 0
        ]
        teachers = sum(any(pair) for pair in zip(states, rewards))
        remedy = (
            'Check that teacher'
            if teachers == 1
            else 'Where several teachers are named, check what they share: the images, the student '
            'and its learning rate'
        )
        return (
            f'The agent cannot learn from the {images} images of its rollout buffer: '
            f'{"; ".join(faults)}. {remedy}, or the reward "{type(self.reward).__name__}".'
        )

    def state_dict(self) -> dict[str, Any]:
        """State to be saved for exact resuming; the agent is saved with the model."""
        state = dict(algorithm=self.algorithm.state_dict(), buffers=self._shards.state_dict())
        if reward := self.reward.state_dict():
            state['reward'] = reward
        if self.memorised is not None:
            state['memorised'] = self.memorised.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, on any number of processes.

        Raises:
            ValueError: If the buffers are those of other teachers.
        """
        self.algorithm.load_state_dict(state['algorithm'])
        self._shards.load_state_dict(state['buffers'])
        # Not in checkpoints of trainings without them.
        if 'reward' in state:
            self.reward.load_state_dict(state['reward'])
        if self.memorised is not None and 'memorised' in state:
            self.memorised.load_state_dict(state['memorised'])
