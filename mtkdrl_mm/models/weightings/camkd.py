# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Confidence-aware weights."""

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms, TeacherWeights
from mtkdrl_mm.structures.teacher_weights import confidence

from .base import Weighting


@MODELS.register_module()
class CAMKD(Weighting):
    """Teachers that are right count more, image by image.

    The weights of logits and features are the :func:`confidence`, as MTKD-RL uses
    it in its action. In the paper this holds for the logits; a teacher's feature weight
    is computed by the same formula from the cross entropy of what its own classifier says
    of the student's projected features, which takes the teachers' networks. Source: Zhang
    et al., "Confidence-Aware Multi-Teacher Knowledge Distillation",
    arXiv:2201.00007.
    """

    def forward(self, terms: StepTerms) -> TeacherWeights:
        """The confidence, for logits and features."""
        weights = confidence(terms.teacher_ce)
        return TeacherWeights(logit=weights, feature=weights)
