# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Confidence-aware weights."""

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms, TeacherWeights
from mtkdrl_mm.structures.teacher_weights import confidence

from .base import Weighting


@MODELS.register_module()
class CAMKD(Weighting):
    """Teachers that are right count more, image by image.

    The weights of logits and features are the :func:`confidence`. Source: Zhang
    et al., "Confidence-Aware Multi-Teacher Knowledge Distillation",
    arXiv:2201.00007.
    """

    def forward(self, terms: StepTerms) -> TeacherWeights:
        """The confidence, for logits and features."""
        weights = confidence(terms.teacher_ce)
        return TeacherWeights(logit=weights, feature=weights)
