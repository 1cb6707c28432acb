# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Equal weights."""

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms, TeacherWeights

from .base import Weighting


@MODELS.register_module()
class AVER(Weighting):
    """Every teacher counts 1/M for every image."""

    def forward(self, terms: StepTerms) -> TeacherWeights:
        """Equal weights."""
        weights = terms.logit_loss.new_full(terms.logit_loss.shape, 1 / terms.num_teachers)
        return TeacherWeights(logit=weights, feature=weights)
