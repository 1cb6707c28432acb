# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""KL divergence between standardised logits."""

import torch
from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms

from .base import CONSTANT_LOGITS, DistillationLoss


@MODELS.register_module()
class StandardizedKL(DistillationLoss):
    r"""Hinton's loss on logits of mean 0 and standard deviation 1 over the classes.

    The student need not match the teachers' scale, only their shape. Source:
    Sun et al., "Logit Standardization in Knowledge Distillation",
    arXiv:2403.01427.

    The gradient is as 1 over the standard deviation of the student's logits, so a head
    that starts with weights of zero would get one of 1 / ``eps``. Logits of the student
    that deviate by less than 0.01 are therefore only centred, as if they deviated by 1:
    the gradient is that of Hinton's loss until the student tells classes apart.

    Args:
        temperature (float): T > 0. Defaults to 2.
        eps (float): Added to the standard deviation. Defaults to 1e-7.
    """

    def __init__(self, temperature: float = 2.0, eps: float = 1e-7) -> None:
        super().__init__(temperature)
        self.eps = eps

    def forward(self, terms: StepTerms) -> Tensor:
        """KL divergence from every teacher to the student, shape (B, M)."""
        student = self._log_probs(terms.student_logits, CONSTANT_LOGITS)[:, None]
        teacher = self._log_probs(terms.teacher_logits)
        return self.temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=-1)

    def _log_probs(self, logits: Tensor, constant: float = 0.0) -> Tensor:
        centred = logits - logits.mean(dim=-1, keepdim=True)
        deviation = logits.std(dim=-1, keepdim=True, correction=0)
        deviation = torch.where(deviation < constant, torch.ones_like(deviation), deviation)
        return (centred / (deviation + self.eps) / self.temperature).log_softmax(dim=-1)
