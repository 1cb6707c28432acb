# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The two parts of the action that need no agent."""

import torch
from torch import Tensor

from mtkdrl_mm.structures import StepTerms


@torch.no_grad()
def confidence(terms: StepTerms) -> Tensor:
    r"""Weights by how right the teachers are.

    .. math::
        c^m = \frac{1 - \mathrm{softmax}_m H(y, z^m)}{M - 1},
        \qquad c = 1 \text{ for } M = 1

    Source: Zhang et al., "Confidence-Aware Multi-Teacher Knowledge
    Distillation", arXiv:2201.00007.

    Args:
        terms (StepTerms): The step's record.

    Returns:
        Tensor: Shape (B, M), summing to 1 over the teachers.
    """
    return confidence_of(terms.teacher_ce)


@torch.no_grad()
def confidence_of(teacher_ce: Tensor) -> Tensor:
    """As :func:`confidence`, from the teachers' cross entropies alone.

    Args:
        teacher_ce (Tensor): H(y, z^m) of shape (B, M).

    Returns:
        Tensor: Shape (B, M), summing to 1 over the teachers.
    """
    if teacher_ce.shape[1] == 1:
        return torch.ones_like(teacher_ce)
    return teacher_ce.softmax(dim=1).neg().add(1).div(teacher_ce.shape[1] - 1)


@torch.no_grad()
def divergence(distances: Tensor) -> Tensor:
    """Weights by how far teachers are from the student: softmax over teachers.

    Args:
        distances (Tensor): KL^m for logits, cos^m for features; shape (B, M).

    Returns:
        Tensor: Shape (B, M), summing to 1 over the teachers.
    """
    return distances.detach().softmax(dim=1)
