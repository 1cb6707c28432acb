# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Proximal policy optimisation over all actions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..rollout_buffer import RolloutBuffer
from .base import Algorithm, entropy


class PPO(Algorithm):
    r"""Several passes over the history, each near the policy that made it.

    .. math::
        J = \mathrm{mean}_i \sum_m \pi_{old}^m \min\big(\rho^m A^m,
            \mathrm{clip}(\rho^m, 1 - \epsilon, 1 + \epsilon) A^m\big)
            + \lambda H(\pi), \qquad \rho^m = \pi^m / \pi_{old}^m

    summed over both heads. The rewards of all teachers are known, so the
    expectation under the old policy is exact and no action is sampled. Source:
    Schulman et al., "Proximal Policy Optimization Algorithms",
    arXiv:1707.06347.

    Args:
        clip (float): epsilon > 0. Defaults to 0.2.
        epochs (int): Passes over the history per update. Defaults to 4.
        **kwargs: As :class:`Algorithm`.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(self, clip: float = 0.2, epochs: int = 4, **kwargs: Any) -> None:
        super().__init__(epochs=epochs, **kwargs)
        if not clip > 0:
            raise ValueError(f'`clip` must be greater than 0, but is {clip!r}.')
        self.clip = clip
        self._old: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def begin_update(self, history: RolloutBuffer, device: torch.device) -> None:
        """Keep the old policy's log probabilities of every mini batch."""
        blocks = history.blocks(device, range(history.num_steps))
        self._old = [self.agent(states) for states, _ in blocks]

    def loss(self, states: Sequence[Tensor], rewards: Tensor, block: int = 0) -> Tensor:
        """Minus J on one mini batch."""
        advantages = self.advantage(rewards)
        loss = rewards.new_zeros(())
        for log_probs, old in zip(self.agent(states), self._old[block]):
            ratio = (log_probs - old).exp()
            clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
            gain = torch.minimum(ratio * advantages, clipped * advantages)
            loss = loss - (old.exp() * gain).sum(dim=1).mean()
            loss = loss - self.entropy_weight * entropy(log_probs).mean()
        return loss
