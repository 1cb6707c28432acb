# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Softened Kullback-Leibler divergence between logits."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms

from ..numbers_by_teacher import numbers_by_teacher
from .base import DistillationLoss


@MODELS.register_module()
class KLDivergence(DistillationLoss):
    r"""Hinton's distillation loss.

    .. math::
        KL_i^m = T^2 \sum_c p^m_c (\log p^m_c - \log p^S_c),
        \quad p = \mathrm{softmax}(z / T)

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network",
    arXiv:1503.02531.

    A teacher that is surer than it is right, or less sure, can be given the
    temperature at which its probabilities fit, :math:`\tau_m`, which
    ``tools/analysis_tools/check_teachers.py`` finds (Guo et al., "On
    Calibration of Modern Neural Networks", arXiv:1706.04599). Its targets are
    then :math:`p^m = \mathrm{softmax}(z^m / (\tau_m T))`.

    Args:
        temperature (float): T > 0. Defaults to 4.
        teacher_temperatures (dict[str, float], optional): tau_m > 0 of teachers,
            by their names; 1 for the others. Defaults to None: 1 for all.
        names (Sequence[str], optional): The teachers' names; supplied by the
            distiller.

    Raises:
        InputError: If ``teacher_temperatures`` names an unknown teacher, or a
            temperature is not above 0.

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

    teacher_temperatures: Tensor | None

    def __init__(
        self,
        temperature: float = 4.0,
        teacher_temperatures: dict[str, float] | None = None,
        names: Sequence[str] = (),
    ) -> None:
        super().__init__(temperature)
        values = None
        if teacher_temperatures is not None:
            values = torch.tensor(
                numbers_by_teacher(
                    'teacher_temperatures', teacher_temperatures, names, default=1, exclusive=True
                )
            )
        # From the config, and so no part of checkpoints.
        self.register_buffer('teacher_temperatures', values, persistent=False)

    def teacher_log_probs(self, terms: StepTerms) -> Tensor:
        """Log softmax(z^m / (tau_m T)) of all teachers, shape (B, M, C).

        Args:
            terms (StepTerms): The step's record for B images and M teachers.
        """
        return terms.teacher_log_probs(self.temperature, self.teacher_temperatures)

    def forward(self, terms: StepTerms) -> Tensor:
        """KL divergence from every teacher to the student, shape (B, M)."""
        teacher = self.teacher_log_probs(terms)
        student = terms.student_log_probs(self.temperature)[:, None]
        return self.temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=-1)
