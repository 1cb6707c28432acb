# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Deterministic policy gradient."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from torch import Tensor, nn

from mtkdrl_mm.registry import TASK_UTILS
from mtkdrl_mm.utils import check_number
from mtkdrl_mm.utils.distributed import check_equal_over_ranks, local_shard
from mtkdrl_mm.utils.seeding import derive_seed

from ..critic import Critic
from ..rollout_buffer import RolloutBuffer
from .base import Algorithm, build_optimizer, descend, load_optimizer, mean_over_images


@TASK_UTILS.register_module()
class DPG(Algorithm):
    r"""Actor-critic: a critic learns the value of weights, the agent ascends it.

    The action a is the vector of both heads' weights. Its value is the
    advantage that it collects,

    .. math::
        r(a) = \tfrac{1}{2} \sum_m A^m (a_l^m + a_f^m)

    The critic Q(s, a) is regressed on r(a) of the agent's own actions with
    exploration noise; the agent ascends Q(s, pi(s)) plus the entropy bonus.
    Episodes have one step, so nothing is bootstrapped. Source: Silver et al.,
    "Deterministic Policy Gradient Algorithms", ICML 2014.

    Args:
        agent (nn.Module): As in :class:`Algorithm`; it also has ``normalize``
            and ``normalized_sizes``, as :class:`mtkdrl_mm.models.Policy`.
        critic_optimizer (dict, optional): Config of the critic's optimiser.
            Defaults to Adam with learning rate 1e-3.
        critic_hidden (int): Width of the critic. Defaults to 128.
        critic_steps (int): Steps of the critic per step of the agent. Defaults
            to 4.
        noise (float): Standard deviation of the exploration noise on the log
            probabilities of the critic's actions. Defaults to 0.5: the critic
            can tell directions only from actions that differ.
        **kwargs: Further arguments of :class:`Algorithm`.

    Raises:
        InputError: If a number is out of range.
    """

    def __init__(
        self,
        agent: nn.Module,
        critic_optimizer: dict[str, Any] | None = None,
        critic_hidden: int = 128,
        critic_steps: int = 4,
        noise: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(agent, **kwargs)
        self.critic_steps = int(check_number('critic_steps', critic_steps, minimum=1))
        self.noise = check_number('noise', noise)
        # The same on all processes, and of the run's seed alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, 'critic'))
            self.critic = Critic(agent.normalized_sizes, critic_hidden).to(self.device)
        self.critic_parameters = list(self.critic.parameters())
        self.critic_optimizer = build_optimizer(
            critic_optimizer or dict(type='Adam', lr=1e-3), self.critic_parameters
        )

    def update(self, buffer: RolloutBuffer) -> dict[str, float]:
        """Per rollout step: ``critic_steps`` of the critic, then one of the agent."""
        losses, critic_losses = [], []
        noise = self.noise_generator()
        with self.updating(buffer):
            for step in self.minibatch_order(buffer):
                states, rewards = buffer.get(step, self.device)
                critic_losses.append(
                    self.train_critic(states, rewards, self.critic_steps, noise, self.images[step])
                )
                loss = self.loss(states, self.critic)
                losses.append(self.descend(loss, len(rewards), step))
        check_equal_over_ranks(self.critic, 'critic')
        return dict(
            agent_loss=self.mean_loss(losses),
            critic_loss=self.mean_loss(critic_losses),
        )

    def loss(self, states: Sequence[Tensor], critic: nn.Module) -> Tensor:
        """Minus the critic's value of the agent's action, minus the entropy bonus.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, s_m).
            critic (nn.Module): The critic that the agent ascends.

        Returns:
            Tensor: A scalar.
        """
        log_probs = self.agent(states)
        action = torch.cat([head.exp() for head in log_probs], dim=1)
        value = critic(self.agent.normalize(states), action)
        return -(mean_over_images(value) + self.entropy_bonus(log_probs))

    def train_critic(
        self,
        states: Sequence[Tensor],
        rewards: Tensor,
        steps: int,
        noise: torch.Generator,
        total: int,
    ) -> Tensor:
        """Steps of the critic on one mini batch.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, s_m).
            rewards (Tensor): Shape (B, M).
            steps (int): Number of steps.
            noise (torch.Generator): Of the exploration noise.
            total (int): Images of the mini batch on all processes.

        Returns:
            Tensor: This process's part of the last mean squared error, a scalar, see
            :meth:`descend`.
        """
        with torch.no_grad():
            # Once: the agent does not move while the critic learns.
            log_probs = list(self.agent(states))
            observed = self.agent.normalize(states)
        for _ in range(steps):
            action = self.explore(log_probs, total, noise)
            error = self.critic(observed, action) - self.action_value(rewards, action)
            # Its average over the processes is the mean over all images.
            loss = error.square().sum() * (get_world_size() / total)
            loss = descend(loss, self.critic_optimizer, self.critic_parameters, self.max_grad_norm)
        return loss

    def action_value(self, rewards: Tensor, action: Tensor) -> Tensor:
        """r(a) of shape (B,) for actions of shape (B, 2M)."""
        advantages = self.advantages(rewards)
        return (torch.cat([advantages, advantages], dim=1) * action).sum(dim=1) / 2

    def explore(self, log_probs: Sequence[Tensor], total: int, noise: torch.Generator) -> Tensor:
        """The agent's action with exploration noise.

        Every image has the noise that it would have in a single process.

        Args:
            log_probs (Sequence[Tensor]): Two heads of shape (B, M), detached.
            total (int): Images of the mini batch on all processes.
            noise (torch.Generator): See :meth:`noise_generator`.

        Returns:
            Tensor: Shape (B, 2M).
        """
        heads = []
        for head in log_probs:
            # Once budgets are used up, a process may hold more images of a step than its share.
            needed = (len(head) - 1) * get_world_size() + get_rank() + 1
            drawn = torch.randn(max(total, needed), head.shape[1], generator=noise)
            own = drawn[local_shard()][: len(head)].to(head)
            heads.append((head + self.noise * own).softmax(dim=1))
        return torch.cat(heads, dim=1)

    def noise_generator(self) -> torch.Generator:
        """Generator of this update's exploration noise, the same on all processes."""
        seed = derive_seed(self.seed, 'exploration', self.updates)
        return torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """State to be saved for exact resuming."""
        return dict(
            super().state_dict(),
            critic=self.critic.state_dict(),
            critic_optimizer=self.critic_optimizer.state_dict(),
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self.critic.load_state_dict(state['critic'])
        load_optimizer(self.critic_optimizer, state['critic_optimizer'])
