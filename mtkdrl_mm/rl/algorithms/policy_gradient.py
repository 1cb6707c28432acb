# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Policy gradient over all actions."""

from collections.abc import Sequence

from torch import Tensor

from .base import Algorithm, entropy


class PolicyGradient(Algorithm):
    r"""Ascends the expected advantage of the policy.

    .. math::
        J = \mathrm{mean}_i \sum_m A_i^m (\pi_l^m + \pi_f^m)(s_i)
            + \lambda (H(\pi_l) + H(\pi_f))

    Since the policy is a softmax over the teachers and all their rewards are
    known, this is the exact policy gradient of a contextual bandit: no action
    is sampled, and there is no sampling noise. (The paper, arXiv:2502.18510,
    prints a descent; taken literally that lowers good teachers.)
    """

    def loss(self, states: Sequence[Tensor], rewards: Tensor, block: int = 0) -> Tensor:
        """Minus J on one mini batch."""
        advantages = self.advantage(rewards)
        loss = rewards.new_zeros(())
        for log_probs in self.agent(states):
            loss = loss - (advantages * log_probs.exp()).sum(dim=1).mean()
            loss = loss - self.entropy_weight * entropy(log_probs).mean()
        return loss
