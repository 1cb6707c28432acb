# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Policy gradient over all actions."""

from collections.abc import Sequence

from torch import Tensor

from mtkdrl_mm.registry import TASK_UTILS

from ..rollout_buffer import RolloutBuffer
from .base import Algorithm, mean_over_images


@TASK_UTILS.register_module()
class PolicyGradient(Algorithm):
    r"""Gradient ascent on the expected advantage of the policy.

    .. math::
        J = \mathrm{mean}_i \sum_m A_i^m (\pi_l^m + \pi_f^m)(s_i)
            + \lambda (H(\pi_l) + H(\pi_f))

    The policy is a softmax over the teachers and the rewards of all of them
    are known, so this is the exact policy gradient of a contextual bandit: no
    action is sampled, and there is no sampling noise. The paper,
    arXiv:2502.18510, prints a descent on J; taken literally, that would lower
    the weights of good teachers.

    Arguments are those of :class:`Algorithm`.
    """

    def update(self, buffer: RolloutBuffer) -> dict[str, float]:
        """One step of the optimiser per rollout step."""
        losses = []
        with self.updating(buffer):
            for step in self.minibatch_order(buffer):
                states, rewards = buffer.get(step, self.device)
                loss = self.loss(states, rewards)
                losses.append(self.descend(loss, len(rewards), step))
        return dict(agent_loss=self.mean_loss(losses))

    def loss(self, states: Sequence[Tensor], rewards: Tensor) -> Tensor:
        """Minus J on a mini batch.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, s_m).
            rewards (Tensor): Shape (B, M).

        Returns:
            Tensor: A scalar.
        """
        advantages = self.advantages(rewards)
        log_probs = self.agent(states)
        logit, feature = (
            mean_over_images((advantages * head.exp()).sum(dim=1)) for head in log_probs
        )
        return -(logit + feature + self.entropy_bonus(log_probs))
