# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Training of the agent, apart from any schedule."""

from typing import Any

import torch
from mmengine.dist import all_reduce, get_rank
from torch import Tensor

from mtkdrl_mm.structures import AgentAction, BufferShards, StepTerms
from mtkdrl_mm.utils.seeding import derive_seed

from .algorithms import Algorithm
from .reward import Reward
from .rollout_buffer import RolloutBuffer, redistribute


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

    Raises:
        InputError: If the algorithm cannot learn from the reward.
    """

    def __init__(
        self, algorithm: Algorithm, reward: Reward, buffer: RolloutBuffer, seed: int
    ) -> None:
        algorithm.check_reward(reward)
        self.algorithm = algorithm
        self.reward = reward
        self.buffer = buffer
        self.seed = seed
        self._shards = BufferShards(buffer, redistribute)
        self._generator = torch.Generator()

    def observe(self, terms: StepTerms, action: AgentAction, iteration: int) -> Tensor:
        """Add one training step to the buffer.

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
        self._generator.manual_seed(derive_seed(self.seed, 'rollout', iteration, get_rank()))
        self.buffer.add(action.states, rewards, self._generator)
        return rewards

    def update(self) -> dict[str, float]:
        """Update the agent from the buffers of all processes, and clear them.

        It is called on all processes.

        Returns:
            dict[str, float]: What the algorithm returns for the log; empty if
            all buffers were empty.
        """
        images = torch.tensor(len(self.buffer))
        all_reduce(images)
        if int(images) == 0:
            return {}
        results = self.algorithm.update(self.buffer)
        self.buffer.clear()
        return results

    def gather(self) -> None:
        """Collect the buffers of all processes for the next :meth:`state_dict`."""
        self._shards.gather()

    def state_dict(self) -> dict[str, Any]:
        """State to be saved for exact resuming; the agent is saved with the model."""
        return dict(algorithm=self.algorithm.state_dict(), buffers=self._shards.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, on any number of processes.

        Raises:
            ValueError: If the buffers are those of other teachers.
        """
        self.algorithm.load_state_dict(state['algorithm'])
        self._shards.load_state_dict(state['buffers'])
