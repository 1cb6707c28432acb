# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Relations within and between classes."""

import torch
from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms
from mtkdrl_mm.utils import check_number

from .base import CONSTANT_LOGITS, DistillationLoss


@MODELS.register_module()
class DIST(DistillationLoss):
    r"""One minus Pearson correlations of the predictions, along classes and images.

    .. math::
        L_i^m = T^2 \Big[ \beta \big(1 - \rho(p^S_{i,:}, p^m_{i,:})\big)
            + \gamma\, \mathrm{mean}_c \big(1 - \rho(p^S_{:,c}, p^m_{:,c})\big) \Big]

    The second term relates the images of the batch to each other and is the
    same for all of them. Source: Huang et al., "Knowledge Distillation from A
    Stronger Teacher", arXiv:2205.10536.

    A correlation does not see how far predictions deviate from their mean, and its
    gradient is as 1 over this deviation: for a head that starts with weights of zero it
    is infinite. A row or column of the student's that deviates by less than logits with
    a standard deviation of 0.01 would is therefore divided by the deviation of logits
    with one of 1. Its term is then almost 1, as that of constant predictions is, and
    has a gradient of ordinary size, so that the student learns.

    Args:
        beta (float): Coefficient of the relations between classes. Defaults
            to 1.
        gamma (float): Coefficient of the relations within classes. Defaults
            to 1.
        temperature (float): T > 0. Defaults to 1.
    """

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__(temperature)
        self.beta = check_number('beta', beta)
        self.gamma = check_number('gamma', gamma)

    def forward(self, terms: StepTerms) -> Tensor:
        """Distance from every teacher's relations, shape (B, M)."""
        teacher = terms.teacher_log_probs(self.temperature).exp()
        student = terms.student_log_probs(self.temperature).exp()[:, None].expand_as(teacher)
        between = 1 - pearson(student, teacher, 2, self.temperature)
        within = pearson(student, teacher, 0, self.temperature).neg().add(1).mean(dim=1)
        return self.temperature**2 * (self.beta * between + self.gamma * within)


def pearson(student: Tensor, teacher: Tensor, dim: int, temperature: float) -> Tensor:
    """Pearson correlation of probabilities along a dimension.

    Args:
        student (Tensor): Any shape. Where it is constant, see :class:`DIST`, the
            result is near 0.
        teacher (Tensor): The same shape.
        dim (int): The dimension that is correlated away.
        temperature (float): T of the probabilities.

    Returns:
        Tensor: One dimension less.
    """
    mean = student.mean(dim=dim, keepdim=True)
    student = student - mean
    teacher = teacher - teacher.mean(dim=dim, keepdim=True)
    length = student.norm(dim=dim)
    # Of logits with a small standard deviation s: p changes by p / T times as much as they do,
    # which makes it sqrt(n) s mean(p) / T.
    unit = mean.squeeze(dim) * (student.shape[dim] ** 0.5 / temperature)
    length = torch.where(length < CONSTANT_LOGITS * unit, unit, length)
    # The constant is added as the authors add it: it counts for classes that
    # hardly any image is given.
    product = length.mul(teacher.norm(dim=dim)).add(1e-8)
    return (student * teacher).sum(dim=dim).div(product)
