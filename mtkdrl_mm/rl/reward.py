# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Rewards of the teachers."""

from abc import ABCMeta, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from mtkdrl_mm.registry import TASK_UTILS
from mtkdrl_mm.structures import StepTerms, TeacherWeights
from mtkdrl_mm.structures.step_terms import cross_entropy


class Reward(metaclass=ABCMeta):
    """Reward of every teacher on every image.

    Attributes:
        is_probability (bool): Whether all rewards are probabilities, from 0 to
            1, as :class:`MixtureLikelihood` needs. Defaults to False.
        compares_teachers (bool): Whether the teachers of an image may have
            different rewards. Without, only :class:`WeightedBCE` learns anything.
            Defaults to True.
    """

    is_probability: ClassVar[bool] = False
    compares_teachers: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, terms: StepTerms, weights: TeacherWeights) -> Tensor:
        """Compute the rewards.

        Args:
            terms (StepTerms): The step's terms for B images and M teachers.
            weights (TeacherWeights): The weights that the step was made with.

        Returns:
            Tensor: R_i^m of shape (B, M), detached, float32.
        """

    def state_dict(self) -> dict[str, Any]:
        """State to be saved for exact resuming; empty by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restore what :meth:`state_dict` returned."""


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

    compares_teachers = False

    @torch.no_grad()
    def __call__(self, terms: StepTerms, weights: TeacherWeights) -> Tensor:
        """Minus the student's loss in M equal columns, shape (B, M)."""
        reward = terms.student_losses(weights).detach().neg()
        return reward[:, None].expand(-1, terms.num_teachers)


@TASK_UTILS.register_module()
class LabelProbabilityReward(Reward):
    r"""Probability that the teacher gives to the label.

    .. math::
        R_i^m = \mathrm{softmax}(z_i^m)^{c_i}, \quad c_i \sim y_i

    The reward of :class:`MixtureLikelihood`. It does not depend on the student.
    The label is the data's, without the label smoothing of the student's loss. Of a
    soft one (mixup, cutmix) one class is drawn, the same for all teachers: the
    objective is then :math:`\sum_c y_i^c \log \sum_m w_i^m p_i^m[c]` on average, the
    likelihood of the soft label. The mean probability :math:`\sum_c y_i^c \, p_i^m[c]`
    is none: it is highest for a teacher that is sure of the larger class.
    """

    is_probability = True

    @torch.no_grad()
    def __call__(self, terms: StepTerms, weights: TeacherWeights) -> Tensor:
        """The probabilities, shape (B, M)."""
        labels = terms.data_labels
        if labels.ndim == 2:
            labels = labels.float().multinomial(1)[:, 0]
        return cross_entropy(terms.teacher_log_probs(), labels).neg().exp()
