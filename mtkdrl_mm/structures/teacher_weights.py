# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Weights of the teachers for a batch, and the functions that need no training."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mtkdrl_mm.utils import InputError

# How far the sum of an image's weights may be from 1, by rounding.
_TOLERANCE = 1e-2


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


@torch.no_grad()
def confidence(teacher_ce: Tensor) -> Tensor:
    r"""Confidence weights: the larger, the smaller a teacher's cross entropy.

    .. math::
        c^m = \frac{1 - \mathrm{softmax}_m H(y, z^m)}{M - 1},
        \qquad c = 1 \text{ for } M = 1

    Source: Zhang et al., "Confidence-Aware Multi-Teacher Knowledge
    Distillation", arXiv:2201.00007.

    Args:
        teacher_ce (Tensor): H(y, z^m) in nats, shape (B, M).

    Returns:
        Tensor: Shape (B, M), summing to 1 over the teachers.
    """
    if teacher_ce.shape[1] == 1:
        return torch.ones_like(teacher_ce)
    return teacher_ce.softmax(dim=1).neg().add(1).div(teacher_ce.shape[1] - 1)


@torch.no_grad()
def divergence(gaps: Tensor) -> Tensor:
    """Divergence weights: the softmax over teachers of their gap to the student.

    Args:
        gaps (Tensor): KL^m for logits, cos^m for features; shape (B, M).

    Returns:
        Tensor: Shape (B, M), summing to 1 over the teachers.
    """
    return gaps.detach().softmax(dim=1)


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy of distributions over the last dimension.

    Args:
        log_probs (Tensor): Log probabilities, shape (..., K).

    Returns:
        Tensor: In nats, shape (...).
    """
    # What is impossible adds nothing, where 0 times -inf would be NaN. The gradient of
    # `torch.special.entr` is NaN already where a probability is rounded to 0.
    finite = log_probs.clamp_min(torch.finfo(log_probs.dtype).min)
    return -(log_probs.exp() * finite).sum(dim=-1)


def check_weights(values: Tensor, what: str) -> None:
    """Check the values of weights, which may be those of a user's own weighting.

    Args:
        values (Tensor): Of a batch that is not empty, shape (B, M). NaN passes: that the
            loss is not finite is an error of its own.
        what (str): What they are, for the message.

    Raises:
        InputError: If those of an image do not sum to 1, or one is negative.
    """
    deviations = (values.sum(dim=1) - 1).abs()
    worst = int(deviations.nan_to_num(0).argmax())
    total, least = float(values[worst].sum()), float(values.min())
    if abs(total - 1) > _TOLERANCE:
        raise InputError(
            f'{what} must sum to 1 over the teachers, but those of image {worst} of the batch sum '
            f'to {total:.4g}.'
        )
    if least < -_TOLERANCE:
        raise InputError(f'{what} must not be negative, but the least of a batch is {least:.4g}.')
