# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Distributions over the teachers that need no training, and their entropy."""

import torch
from torch import Tensor


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
    return -(log_probs.exp() * log_probs).sum(dim=-1)
