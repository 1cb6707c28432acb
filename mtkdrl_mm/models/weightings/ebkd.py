# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Entropy-based weights."""

import torch

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms, TeacherWeights
from mtkdrl_mm.structures.teacher_weights import entropy

from .base import Weighting


@MODELS.register_module()
class EBKD(Weighting):
    r"""Teachers that are sure count more, image by image.

    .. math::
        w^m = \frac{1}{M - 1} \Big( 1 - \frac{E^m}{\sum_k E^k} \Big), \qquad
        E^m = H(\mathrm{softmax}(z^m)), \qquad w = 1 \text{ for } M = 1

    Labels are not looked at. Source: Kwon et al., "Adaptive Knowledge
    Distillation Based on Entropy", ICASSP 2020.
    """

    @torch.no_grad()
    def forward(self, terms: StepTerms) -> TeacherWeights:
        """The same weights for logits and features."""
        entropies = entropy(terms.teacher_log_probs())
        if terms.num_teachers == 1:
            weights = torch.ones_like(entropies)
        else:
            # Teachers that are all perfectly sure have entropies of 0.
            total = entropies.sum(dim=1, keepdim=True)
            equal = torch.full_like(entropies, 1 / terms.num_teachers)
            share = torch.where(total > 0, entropies.div(total.clamp_min(1e-30)), equal)
            weights = share.neg().add(1).div(terms.num_teachers - 1)
        return TeacherWeights(logit=weights, feature=weights)
