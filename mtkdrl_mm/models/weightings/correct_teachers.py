# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Equal weights for the teachers that are right about an image."""

import torch

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms, TeacherWeights

from ..teachers import PoolSpec
from .base import Weighting


@MODELS.register_module()
class CorrectTeachers(Weighting):
    r"""The teachers that are right about an image share its weight.

    .. math::
        w^m = c^m \Big/ \sum_k c^k, \qquad c^m = y_{\arg\max z^m}

    With hard labels, c is 1 for a teacher that is right. Where no teacher is
    right, all have equal weights. An oracle: it shows what there is to gain by
    following, on every image, those who know its class.

    Args:
        pool (PoolSpec): The pool of M teachers; supplied by the distiller.
        features (bool): Whether features are weighed in the same way; otherwise
            all teachers have equal feature weights. Defaults to True.
    """

    def __init__(self, pool: PoolSpec, features: bool = True) -> None:
        super().__init__(pool)
        self.features = features

    @torch.no_grad()
    def forward(self, terms: StepTerms) -> TeacherWeights:
        """Weigh by correctness."""
        answers = terms.teacher_logits.argmax(dim=-1)
        correct = terms.soft_labels.gather(1, answers)
        total = correct.sum(dim=1, keepdim=True)
        equal = torch.full_like(correct, 1 / terms.num_teachers)
        weights = torch.where(total > 0, correct / total.clamp_min(1e-30), equal)
        return TeacherWeights(logit=weights, feature=weights if self.features else equal)
