# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The policy loss of the authors' released code."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mtkdrl_mm.registry import TASK_UTILS

from ..rollout_buffer import RolloutBuffer
from .base import Algorithm, mean_over_images


@TASK_UTILS.register_module()
class WeightedBCE(Algorithm):
    r"""Binary cross entropy of every weight towards 1, weighted by the advantage.

    .. math::
        L = \mathrm{mean}_i \sum_m A_i^m \big(
            \mathrm{BCE}(w_l^m, 1) + \mathrm{BCE}(w_f^m, 1) \big)
            - \lambda (H(w_l) + H(w_f))
          = -\mathrm{mean}_i \sum_m A_i^m (\log w_l^m + \log w_f^m)
            - \lambda (H(w_l) + H(w_f))

    With lambda = 0, this is what the released code of MTKD-RL minimises, with one reward per
    image (:class:`StudentLossReward`), normalised by
    :class:`BatchZScoreAdvantage`, and with the gradient through the fused
    weights w (``policy='fused'`` of the weighting). An image with the same
    advantage for all teachers pulls its weights towards equality: nothing here
    teaches a preference between teachers.

    A negative advantage would drive weights towards 0, where L has no lower bound.

    Arguments are those of :class:`Algorithm`.
    """

    needs_comparisons = False
    needs_non_negative = True

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
        """L on a mini batch.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, s_m).
            rewards (Tensor): Shape (B, M).

        Returns:
            Tensor: A scalar.
        """
        advantages = self.advantages(rewards)
        ones = torch.ones_like(advantages)
        log_probs = self.agent(states)
        loss = rewards.new_zeros(()) - self.entropy_bonus(log_probs)
        for log_weights in log_probs:
            # A softmax may round to just above 1.
            weights = log_weights.exp().clamp(max=1)
            bce = F.binary_cross_entropy(weights, ones, weight=advantages, reduction='none')
            loss = loss + mean_over_images(bce.sum(dim=1))
        return loss
