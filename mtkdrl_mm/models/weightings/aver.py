# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Equal weights."""

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms, TeacherWeights

from .base import Weighting


@MODELS.register_module()
class AVER(Weighting):
    """Every teacher counts 1/M for every image.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.models import AVER, KLDivergence, PoolSpec
        >>> from mtkdrl_mm.structures import NetworkOutput, StepTerms
        >>> outputs = [NetworkOutput(torch.randn(2, 10), torch.randn(2, 4)) for _ in range(3)]
        >>> student, *teachers = outputs
        >>> terms = StepTerms(student, teachers, torch.tensor([3, 7]), logit_loss_fn=KLDivergence())
        >>> pool = PoolSpec(('a', 'b'), 10, embedding_sizes=(4, 4), map_channels=(None, None))
        >>> AVER(pool)(terms).logit
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """

    def forward(self, terms: StepTerms) -> TeacherWeights:
        """Equal weights."""
        weights = terms.logit_loss.new_full(terms.logit_loss.shape, 1 / terms.num_teachers)
        return TeacherWeights(logit=weights, feature=weights)
