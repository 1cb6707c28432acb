# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Mean squared error between feature maps or embeddings."""

import torch
from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms
from mtkdrl_mm.structures.step_terms import at_least_float32

from .base import DistillationLoss


@MODELS.register_module()
class FeatureMSE(DistillationLoss):
    r"""FitNet's hint loss.

    .. math::
        D_i^m = \mathrm{mean}_{c,h,w} (r_m(F^S) - F^m)^2

    On embeddings, the mean runs over their d_m entries. Source: Romero et al.,
    "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550.
    """

    def forward(self, terms: StepTerms) -> Tensor:
        """Squared distance to every teacher's features, shape (B, M)."""
        assert terms.projections is not None and terms.targets is not None
        distances = []
        for projection, target in zip(terms.projections, terms.targets):
            difference = at_least_float32(projection) - at_least_float32(target)
            distances.append(difference.square().mean(dim=tuple(range(1, difference.ndim))))
        return torch.stack(distances, dim=1)
