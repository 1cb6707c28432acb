# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Proximal policy optimisation over all actions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtkdrl_mm.registry import TASK_UTILS
from mtkdrl_mm.utils import check_number

from ..rollout_buffer import RolloutBuffer
from .base import Algorithm, LogProbs, mean_over_images


@TASK_UTILS.register_module()
class PPO(Algorithm):
    r"""Several passes over the buffer, which stay near the policy at their beginning.

    .. math::
        J = \mathrm{mean}_i \sum_m \pi_{old}^m \min\big(\rho^m A^m,
            \mathrm{clip}(\rho^m, 1 - \epsilon, 1 + \epsilon) A^m\big)
            + \lambda H(\pi), \qquad \rho^m = \pi^m / \pi_{old}^m

    summed over both heads. The old policy is that of the agent's weights before
    the first pass, on states that are standardised by the statistics of this
    update: where these have moved, it is not quite the policy that filled the
    buffer. The rewards of all teachers are known, so the expectation under the
    old policy is exact and no action is sampled. Source: Schulman et al.,
    "Proximal Policy Optimization Algorithms", arXiv:1707.06347.

    Args:
        agent (nn.Module): As in :class:`Algorithm`.
        clip (float): epsilon > 0. Defaults to 0.2.
        epochs (int): Passes over the buffer per update. Defaults to 4.
        **kwargs: Further arguments of :class:`Algorithm`.

    Raises:
        InputError: If a number is out of range.
    """

    def __init__(self, agent: nn.Module, clip: float = 0.2, epochs: int = 4, **kwargs: Any) -> None:
        super().__init__(agent, epochs=epochs, **kwargs)
        self.clip = check_number('clip', clip, exclusive=True)

    def update(self, buffer: RolloutBuffer) -> dict[str, float]:
        """One step of the optimiser per rollout step and epoch."""
        losses = []
        with self.updating(buffer):
            with torch.no_grad():
                old = [self.agent(states) for states, _ in buffer.iterate(self.device)]
            for step in self.minibatch_order(buffer):
                states, rewards = buffer.get(step, self.device)
                loss = self.loss(states, rewards, old[step])
                losses.append(self.descend(loss, len(rewards), step))
        return dict(agent_loss=self.mean_loss(losses))

    def loss(self, states: Sequence[Tensor], rewards: Tensor, old: LogProbs) -> Tensor:
        """Minus J on a mini batch.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, s_m).
            rewards (Tensor): Shape (B, M).
            old (LogProbs): Log probabilities of the old policy.

        Returns:
            Tensor: A scalar.
        """
        advantages = self.advantages(rewards)
        log_probs = self.agent(states)
        loss = rewards.new_zeros(()) - self.entropy_bonus(log_probs)
        for head, old_head in zip(log_probs, old):
            ratio = (head - old_head).exp()
            clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
            gain = torch.minimum(ratio * advantages, clipped * advantages)
            loss = loss - mean_over_images((old_head.exp() * gain).sum(dim=1))
        return loss
