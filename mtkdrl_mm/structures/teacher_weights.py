# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Weights of the teachers for a batch."""

from dataclasses import dataclass

from torch import Tensor

from .weight_functions import entropy


@dataclass
class TeacherWeights:
    """Weights of M teachers for a batch of B images.

    Attributes:
        logit (Tensor): Weights wl of the logit terms, shape (B, M), summing to
            1 over the teachers, detached.
        feature (Tensor): Weights wf of the feature terms, same shape and sum.
    """

    logit: Tensor
    feature: Tensor


@dataclass
class AgentAction(TeacherWeights):
    """Weights chosen by an agent, with the states it chose them from.

    Attributes:
        states (list[Tensor]): The M teachers' states, see
            :class:`mtkdrl_mm.rl.TeacherState`; tensors of shape (B, s_m).
        log_probs (tuple[Tensor, Tensor]): log pi_l and log pi_f of the policy,
            each of shape (B, M), detached.
    """

    states: list[Tensor]
    log_probs: tuple[Tensor, Tensor]

    @property
    def policy_entropy(self) -> Tensor:
        """Entropy of the policy in nats, averaged over its two heads, shape (B,)."""
        return (entropy(self.log_probs[0]) + entropy(self.log_probs[1])) / 2
