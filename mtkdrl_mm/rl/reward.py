# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Rewards of the teachers."""

from abc import ABCMeta, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from mtkdrl_mm.registry import TASK_UTILS
from mtkdrl_mm.structures import StepTerms, TeacherWeights


class Reward(metaclass=ABCMeta):
    """Reward of every teacher on every image."""

    @abstractmethod
    def __call__(self, terms: StepTerms, weights: TeacherWeights) -> Tensor:
        """Compute the rewards.

        Args:
            terms (StepTerms): The step's terms for B images and M teachers.
            weights (TeacherWeights): The weights that the step was made with.

        Returns:
            Tensor: R_i^m of shape (B, M), detached, float32.
        """


@TASK_UTILS.register_module()
class ClosenessReward(Reward):
    r"""The published reward: minus the loss of following the teacher.

    .. math::
        R_i^m = -(CE_i + \alpha KL_i^m + \beta D_i^m)

    CE_i is the same for all teachers, so the reward ranks them by their
    distance to the student alone: the nearest has the highest. Source:
    arXiv:2502.18510, section "Reward".
    """

    def __call__(self, terms: StepTerms, weights: TeacherWeights) -> Tensor:
        """Minus each teacher's loss, shape (B, M)."""
        return -terms.teacher_losses


@TASK_UTILS.register_module()
class StudentLossReward(Reward):
    r"""The reward of the authors' released code: minus the student's loss.

    .. math::
        R_i = -\Big(CE_i + \alpha \sum_m wl_i^m KL_i^m + \beta \sum_m wf_i^m D_i^m\Big)

    One reward per image, the same for all its teachers. It tells
    on which images the student does well, not which teacher helped it.
    """

    @torch.no_grad()
    def __call__(self, terms: StepTerms, weights: TeacherWeights) -> Tensor:
        """Minus the student's loss in M equal columns, shape (B, M)."""
        reward = terms.student_losses(weights).detach().neg()
        return reward[:, None].expand(-1, terms.num_teachers)


@TASK_UTILS.register_module()
class LabelProbabilityReward(Reward):
    r"""Probability that the teacher gives to the label.

    .. math::
        R_i^m = \sum_c y_i^c \, \mathrm{softmax}(z_i^m)^c

    The reward of :class:`MixtureLikelihood`. It does not depend on the student.
    """

    @torch.no_grad()
    def __call__(self, terms: StepTerms, weights: TeacherWeights) -> Tensor:
        """The probabilities, shape (B, M)."""
        return (terms.soft_labels[:, None] * terms.teacher_log_probs().exp()).sum(dim=-1)


@TASK_UTILS.register_module()
class ImprovementReward(Reward):
    r"""Decrease of the student's cross entropy when it follows the teacher.

    .. math::
        R_i^m = \langle g_i^m, g_i^y \rangle, \quad
        g^m = \frac{\partial KL^m}{\partial z^S}
            = T (\mathrm{softmax}(z^S / T) - \mathrm{softmax}(z^m / T)), \quad
        g^y = \frac{\partial CE}{\partial z^S} = \mathrm{softmax}(z^S) - y

    A small step of the student's logits along -g^m changes its cross entropy
    by -R to first order. The reward is 0 for a teacher that agrees with the
    student, and negative for one that pulls towards a wrong class. It has a
    closed form and needs no extra pass through any network.

    Args:
        cosine (bool): Whether to use the cosine of the two gradients in place
            of their inner product, which ignores their length. Defaults to
            False.
    """

    def __init__(self, cosine: bool = False) -> None:
        self.cosine = cosine

    @torch.no_grad()
    def __call__(self, terms: StepTerms, weights: TeacherWeights) -> Tensor:
        """Inner products, or cosines, of the two gradients, shape (B, M)."""
        temperature = terms.temperature
        student = terms.student_log_probs(temperature).exp()[:, None]
        teacher_gradients = temperature * (student - terms.teacher_log_probs(temperature).exp())
        label_gradient = (terms.student_log_probs().exp() - terms.soft_labels)[:, None]
        if self.cosine:
            return F.cosine_similarity(teacher_gradients, label_gradient, dim=-1)
        return (teacher_gradients * label_gradient).sum(dim=-1)
