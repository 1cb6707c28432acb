# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What following a teacher is worth."""

from abc import ABCMeta, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mtkdrl_mm.structures import NetworkOutput, StepTerms
from mtkdrl_mm.structures.step_terms import at_least_float32

from .distributed import all_reduce_mean


class Reward(metaclass=ABCMeta):
    """Reward of every teacher on every image.

    Attributes:
        needs_held_out (bool): Whether the reward must be shown held-out images
            from time to time, through :meth:`observe_held_out`.
    """

    needs_held_out = False

    @abstractmethod
    def __call__(self, terms: StepTerms) -> Tensor:
        """Judge the teachers.

        Args:
            terms (StepTerms): The step's record for B images and M teachers.

        Returns:
            Tensor: R_i^m of shape (B, M), detached, float32.
        """

    def observe_held_out(  # noqa: B027, most rewards need none
        self, student: NetworkOutput, labels: Tensor
    ) -> None:
        """See what the student now says of held-out images.

        Args:
            student (NetworkOutput): Its outputs on N images.
            labels (Tensor): Their hard labels, shape (N,).
        """

    def state_dict(self) -> dict[str, Any]:
        """What must be saved to go on exactly; nothing by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take over what :meth:`state_dict` returned."""


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


class HeldOutImprovementReward(Reward):
    r"""How much following the teacher on an image helps on other images.

    .. math::
        R_i^m = \Big\langle g_i^m \otimes f_i, \;
            \frac{1}{N} \sum_{j=1}^N g_j^y \otimes f_j \Big\rangle

    with the gradients g of :class:`ImprovementReward`, the student's embedding
    f with a 1 behind it for the bias, and N held-out images j that the student
    is not trained on. The products are the gradients with respect to the
    student's last linear layer: R is the first-order decrease of the held-out
    cross entropy when that layer follows teacher m on image i. A teacher is
    paid for what generalises, and not for what the labels of image i say
    anyway. One matrix product per step; the sum over j is refreshed from time
    to time by ``AgentHook``.
    """

    needs_held_out = True

    def __init__(self) -> None:
        self.gradient: Tensor | None = None

    @torch.no_grad()
    def observe_held_out(self, student: NetworkOutput, labels: Tensor) -> None:
        """Average the gradient of the last layer over held-out images and processes."""
        logits = at_least_float32(student.logits)
        gradient = logits.softmax(dim=1) - F.one_hot(labels, logits.shape[1])
        self.gradient = all_reduce_mean(gradient.T @ with_bias(student.embedding) / len(labels))

    @torch.no_grad()
    def __call__(self, terms: StepTerms) -> Tensor:
        """Inner products of the last layer's gradients, shape (B, M)."""
        if self.gradient is None:
            raise RuntimeError('HeldOutImprovementReward has seen no held-out images yet.')
        gradient = self.gradient.to(terms.student_logits)
        pull = with_bias(terms.student.embedding).to(gradient) @ gradient.T
        return (teacher_gradients(terms) * pull[:, None]).sum(dim=-1)

    def state_dict(self) -> dict[str, Any]:
        """The gradient of the held-out images."""
        return dict(gradient=self.gradient)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the gradient of the held-out images."""
        self.gradient = state['gradient']


def with_bias(embedding: Tensor) -> Tensor:
    """Append a 1 to every row of an embedding (N, d)."""
    embedding = at_least_float32(embedding.detach())
    return F.pad(embedding, (0, 1), value=1.0)


def teacher_gradients(terms: StepTerms) -> Tensor:
    """g^m of all teachers, detached, shape (B, M, C); see :class:`ImprovementReward`."""
    temperature = terms.temperature
    student = terms.student_log_probs(temperature).detach().exp()[:, None]
    return temperature * (student - terms.teacher_log_probs(temperature).exp())
