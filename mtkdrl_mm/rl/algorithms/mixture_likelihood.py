# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Stacking: the likelihood of the labels under the teachers' mixture."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtkdrl_mm.registry import TASK_UTILS

from .base import mean_over_images
from .policy_gradient import PolicyGradient

# A label that no teacher gives any probability to would have an infinite loss.
_LEAST = 1e-8


@TASK_UTILS.register_module()
class MixtureLikelihood(PolicyGradient):
    r"""Gradient ascent on the log likelihood of the labels under the weighted teachers.

    .. math::
        J = \mathrm{mean}_i \Big( \log \sum_m \pi_l^m(s_i) R_i^m
            + \log \sum_m \pi_f^m(s_i) R_i^m \Big)
            + \lambda (H(\pi_l) + H(\pi_f))

    With :class:`LabelProbabilityReward`, the sum is the probability of the label
    under the mixture that the student is taught, or with ``discount_memorised`` of
    ``AgentHook`` under that part of it which is not repeated by heart. Its
    gradient is the policy gradient with the advantage

    .. math::
        A_i^m = R_i^m \Big/ \sum_k \pi^k(s_i) R_i^k \; - 1

    which differs from that of the expected reward: a teacher is worth what it
    adds to the others. Several that agree share the weight of one, and a policy
    that is unsure keeps all teachers that may be right, where the best expected
    reward belongs to a single one. The `advantage` of ``AgentHook`` is not used.

    The states should not show the label (``cross_entropy=False`` and
    ``gap=False`` of :class:`TeacherState`), and the images should be ones that
    no teacher was trained on (``held_out`` of ``AgentHook``): on its own training
    images a teacher that has learned them by heart looks best. Sources: Wolpert,
    "Stacked generalization", 1992; Jacobs et al., "Adaptive mixtures of local
    experts", 1991.

    Arguments are those of :class:`Algorithm`.
    """

    needs_probabilities = True

    def normalize_step(self, rewards: Tensor) -> Tensor:
        """The rewards as they are: the loss reads probabilities."""
        return rewards

    def loss(self, states: Sequence[Tensor], rewards: Tensor) -> Tensor:
        """Minus J on a mini batch.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, s_m).
            rewards (Tensor): Probabilities, shape (B, M).

        Returns:
            Tensor: A scalar.
        """
        log_rewards = rewards.clamp(min=_LEAST).log()
        log_probs = self.agent(states)
        logit, feature = (
            mean_over_images(torch.logsumexp(head + log_rewards, dim=1)) for head in log_probs
        )
        return -(logit + feature + self.entropy_bonus(log_probs))
