# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Softened Kullback-Leibler divergence between logits."""

from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms

from .base import DistillationLoss


@MODELS.register_module()
class KLDivergence(DistillationLoss):
    r"""Hinton's distillation loss.

    .. math::
        KL_i^m = T^2 \sum_c p^m_c (\log p^m_c - \log p^S_c),
        \quad p = \mathrm{softmax}(z / T)

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network",
    arXiv:1503.02531.

    Args:
        temperature (float): T > 0. Defaults to 4.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.models import KLDivergence
        >>> from mtkdrl_mm.structures import NetworkOutput, StepTerms
        >>> student = NetworkOutput(torch.tensor([[2.0, 0.0, 0.0]]), torch.zeros(1, 4))
        >>> teacher = NetworkOutput(torch.tensor([[0.0, 2.0, 0.0]]), torch.zeros(1, 4))
        >>> terms = StepTerms(student, [student, teacher], torch.tensor([0]))
        >>> KLDivergence(temperature=4.0)(terms)
        tensor([[0.0000, 1.4224]])
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__(temperature)

    def forward(self, terms: StepTerms) -> Tensor:
        """KL divergence from every teacher to the student, shape (B, M)."""
        teacher = terms.teacher_log_probs(self.temperature)
        student = terms.student_log_probs(self.temperature)[:, None]
        return self.temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=-1)
