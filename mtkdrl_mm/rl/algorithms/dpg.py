# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Deterministic policy gradient."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..critic import Critic
from ..distributed import check_equal_over_ranks, local_shard, world_size
from ..rollout_buffer import RolloutBuffer
from .base import Algorithm, entropy


class DPG(Algorithm):
    r"""A critic learns what weights are worth; the agent ascends the critic.

    The action a is the vector of both heads' weights. What it achieves is the
    advantage that it collects,

    .. math::
        r(a) = \tfrac{1}{2} \sum_m A^m (a_l^m + a_f^m)

    The critic Q(s, a) is regressed on r(a) of the agent's own actions; the
    agent ascends Q(s, pi(s)) plus the entropy bonus. Episodes have one step,
    so nothing is bootstrapped. Source: Silver et al., "Deterministic Policy
    Gradient Algorithms", ICML 2014.

    Args:
        critic_optimizer (dict, optional): ``type`` of torch.optim and its
            arguments. Defaults to Adam with learning rate 1e-3.
        critic_hidden (int): Width of the critic. Defaults to 128.
        critic_steps (int): Steps of the critic per step of the agent. Defaults
            to 4.
        noise (float): Standard deviation of the exploration noise on the log
            probabilities of the critic's actions. Defaults to 0.5: the critic
            can tell directions only from actions that differ.
        **kwargs: As :class:`Algorithm`.
    """

    def __init__(
        self,
        critic_optimizer: dict[str, Any] | None = None,
        critic_hidden: int = 128,
        critic_steps: int = 4,
        noise: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if critic_steps < 1 or noise < 0:
            raise ValueError(
                f'`critic_steps` must be at least 1 and `noise` at least 0, but they are '
                f'{critic_steps!r} and {noise!r}.'
            )
        self.critic_optimizer_cfg = dict(critic_optimizer or dict(type='Adam', lr=1e-3))
        self.critic_hidden = critic_hidden
        self.critic_steps = critic_steps
        self.noise = noise
        self.critic: Critic
        self.critic_optimizer: torch.optim.Optimizer
        self._generator = torch.Generator()

    def setup(self, agent: nn.Module, seed: int | None = None) -> None:
        """Take charge of an agent and make its critic, the same on all processes."""
        super().setup(agent, seed)
        device = next(agent.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.critic = Critic(agent.normalized_sizes, self.critic_hidden)
        self.critic.to(device)
        self.critic_optimizer = self.build_optimizer(
            self.critic_optimizer_cfg, list(self.critic.parameters())
        )

    def begin_update(self, history: RolloutBuffer, device: torch.device) -> None:
        """Start the exploration noise of this update."""
        self._generator.manual_seed(self.seed + 10_007 * (self.updates + 1))

    def action_value(self, rewards: Tensor, action: Tensor) -> Tensor:
        """r(a) of shape (B,) for actions of shape (B, 2M)."""
        advantages = self.advantage(rewards)
        return (torch.cat([advantages, advantages], dim=1) * action).sum(dim=1) / 2

    def explore(self, log_probs: Sequence[Tensor], total: int) -> Tensor:
        """An action with noise, near the agent's.

        Every image has the noise that it would have in a single process.

        Args:
            log_probs (Sequence[Tensor]): What the agent proposes, detached, two
                heads of shape (B, M).
            total (int): Images of the mini batch on all processes.

        Returns:
            Tensor: Shape (B, 2M).
        """
        heads = []
        for head in log_probs:
            noise = torch.randn(total, head.shape[1], generator=self._generator)
            own = noise[local_shard()].to(head)
            heads.append((head + self.noise * own).softmax(dim=1))
        return torch.cat(heads, dim=1)

    def train_critic(
        self,
        states: Sequence[Tensor],
        rewards: Tensor,
        steps: int,
        total: int | None = None,
    ) -> Tensor:
        """Steps of the critic on one mini batch.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, s_m).
            rewards (Tensor): Shape (B, M).
            steps (int): Number of steps.
            total (int, optional): Images of the mini batch on all processes.
                Defaults to None: all have as many.

        Returns:
            Tensor: The last squared error, a scalar.
        """
        total = len(rewards) * world_size() if total is None else total
        with torch.no_grad():
            # Once: the agent does not move while the critic learns.
            log_probs = list(self.agent(states))
            seen = self.agent.normalize(states)
        parameters = list(self.critic.parameters())
        for _ in range(steps):
            action = self.explore(log_probs, total)
            error = self.critic(seen, action) - self.action_value(rewards, action)
            # Its average over the processes is the mean over all images.
            loss = error.square().sum() * (world_size() / total)
            self._descend(loss, self.critic_optimizer, parameters)
        return loss.detach()

    def target_critic(self) -> nn.Module:
        """The critic that the agent ascends."""
        return self.critic

    def loss(self, states: Sequence[Tensor], rewards: Tensor, block: int = 0) -> Tensor:
        """Minus the critic's value of the agent's action, minus the entropy bonus."""
        log_probs = self.agent(states)
        action = torch.cat([head.exp() for head in log_probs], dim=1)
        value = self.target_critic()(self.agent.normalize(states), action)
        bonus = sum(entropy(head).mean() for head in log_probs)
        return -value.mean() - self.entropy_weight * bonus

    def prepare_critic(self, states: Sequence[Tensor], rewards: Tensor) -> None:
        """Let the critic learn from a mini batch before the agent does."""
        self.train_critic(states, rewards, self.critic_steps)

    def _step(self, states: Sequence[Tensor], rewards: Tensor, block: int) -> Tensor:
        self.prepare_critic(states, rewards)
        return super()._step(states, rewards, block)

    def update(self, history: RolloutBuffer) -> dict[str, float]:
        """Learn from a history; see :meth:`Algorithm.update`."""
        results = super().update(history)
        check_equal_over_ranks(self.critic, 'critic')
        return results

    def state_dict(self) -> dict[str, Any]:
        """What must be saved to go on exactly."""
        return dict(
            super().state_dict(),
            critic=self.critic.state_dict(),
            critic_optimizer=self.critic_optimizer.state_dict(),
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self.critic.load_state_dict(state['critic'])
        self.critic_optimizer.load_state_dict(state['critic_optimizer'])
