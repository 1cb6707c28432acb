# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Relations within and between classes."""

from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms
from mtkdrl_mm.utils import check_number

from .base import DistillationLoss


@MODELS.register_module()
class DIST(DistillationLoss):
    r"""One minus Pearson correlations of the predictions, along classes and images.

    .. math::
        L_i^m = T^2 \Big[ \beta \big(1 - \rho(p^S_{i,:}, p^m_{i,:})\big)
            + \gamma\, \mathrm{mean}_c \big(1 - \rho(p^S_{:,c}, p^m_{:,c})\big) \Big]

    The second term relates the images of the batch to each other and is the
    same for all of them. Source: Huang et al., "Knowledge Distillation from A
    Stronger Teacher", arXiv:2205.10536.

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
        between = 1 - pearson(student, teacher, dim=2)
        within = pearson(student, teacher, dim=0).neg().add(1).mean(dim=1)
        return self.temperature**2 * (self.beta * between + self.gamma * within)


def pearson(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """Pearson correlation along a dimension.

    Args:
        first (Tensor): Any shape.
        second (Tensor): The same shape.
        dim (int): The dimension that is correlated away.

    Returns:
        Tensor: One dimension less.
    """
    first = first - first.mean(dim=dim, keepdim=True)
    second = second - second.mean(dim=dim, keepdim=True)
    # The constant is added as the authors add it: it counts for classes that
    # hardly any image is given.
    length = first.norm(dim=dim).mul(second.norm(dim=dim)).add(1e-8)
    return (first * second).sum(dim=dim).div(length)
