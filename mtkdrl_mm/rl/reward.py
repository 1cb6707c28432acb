# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What following a teacher is worth."""

from abc import ABCMeta, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from mtkdrl_mm.structures import StepTerms


class Reward(metaclass=ABCMeta):
    """Reward of every teacher on every image."""

    @abstractmethod
    def __call__(self, terms: StepTerms) -> Tensor:
        """Judge the teachers.

        Args:
            terms (StepTerms): The step's record for B images and M teachers.

        Returns:
            Tensor: R_i^m of shape (B, M), detached, float32.
        """


class ClosenessReward(Reward):
    r"""The published reward: minus the loss of following the teacher.

    .. math::
        R_i^m = -(CE_i + \alpha KL_i^m + \beta D_i^m)

    CE_i is the same for all teachers, so that it ranks the teachers by their
    distance to the student alone: the nearest earns most. Source:
    arXiv:2502.18510, section "Reward".
    """

    def __call__(self, terms: StepTerms) -> Tensor:
        """Minus each teacher's loss, shape (B, M)."""
        return -terms.teacher_losses


class ImprovementReward(Reward):
    r"""How much following the teacher lowers the student's own error.

    .. math::
        R_i^m = \langle g_i^m, g_i^y \rangle, \quad
        g^m = \frac{\partial KL^m}{\partial z^S}
            = T (\mathrm{softmax}(z^S / T) - \mathrm{softmax}(z^m / T)), \quad
        g^y = \frac{\partial CE}{\partial z^S} = \mathrm{softmax}(z^S) - y

    A small step of the student's logits along -g^m changes its cross entropy
    by -R to first order. A teacher who says what the student already says
    earns 0, one who pulls towards a wrong answer less than 0. Closed form: no
    extra pass through any network.

    Args:
        cosine (bool): Whether the cosine of the two gradients takes the place
            of their inner product: what counts is then where a teacher pulls,
            and not how hard. Defaults to False.
    """

    def __init__(self, cosine: bool = False) -> None:
        self.cosine = cosine

    @torch.no_grad()
    def __call__(self, terms: StepTerms) -> Tensor:
        """Inner products, or cosines, of the two gradients, shape (B, M)."""
        label_gradient = (terms.student_log_probs().exp() - terms.soft_labels)[:, None]
        gradients = teacher_gradients(terms)
        if self.cosine:
            return F.cosine_similarity(gradients, label_gradient, dim=-1)
        return (gradients * label_gradient).sum(dim=-1)


def teacher_gradients(terms: StepTerms) -> Tensor:
    """g^m of all teachers, detached, shape (B, M, C); see :class:`ImprovementReward`."""
    temperature = terms.temperature
    student = terms.student_log_probs(temperature).detach().exp()[:, None]
    return temperature * (student - terms.teacher_log_probs(temperature).exp())
