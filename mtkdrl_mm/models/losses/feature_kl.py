# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Divergence between where channels look."""

from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms
from mtkdrl_mm.structures.step_terms import at_least_float32
from mtkdrl_mm.utils import InputError

from .base import FeatureLoss


@MODELS.register_module()
class FeatureKL(FeatureLoss):
    r"""KL divergence of each channel's softmax over the positions.

    .. math::
        D_i^m = \frac{T^2}{c_m} \sum_c KL\big(\mathrm{softmax}_{hw}(F^m_c / T)
            \,\|\, \mathrm{softmax}_{hw}(r_m(F^S)_c / T)\big)

    On embeddings, the softmax runs over their entries. A map of a single position
    has nothing to compare: D would be 0. Source: Shu et al., "Channel-wise
    Knowledge Distillation for Dense Prediction", arXiv:2011.13256.

    Args:
        temperature (float): T > 0. Defaults to 4.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__(temperature)

    def compare(self, index: int, terms: StepTerms, projection: Tensor, target: Tensor) -> Tensor:
        """Divergence to one teacher's features, shape (B,).

        Raises:
            InputError: If they are maps of a single position, or embeddings of a
                single entry.
        """
        start = -2 if target.ndim == 4 else -1
        if target.shape[start:].numel() == 1:
            raise InputError(
                f'FeatureKL compares where features are large, but those of teacher number {index} '
                f'have the shape {tuple(target.shape[1:])}, with a single place, and it would '
                'always be 0. Use FeatureMSE in its place, set `connector.type` to '
                '"EmbeddingConnector", or give images of a higher resolution.'
            )
        student, teacher = (
            at_least_float32(features)
            .flatten(start_dim=start)
            .div(self.temperature)
            .log_softmax(dim=-1)
            for features in (projection, target)
        )
        divergence = (teacher.exp() * (teacher - student)).sum(dim=-1)
        # Maps have one divergence per channel.
        divergence = divergence if divergence.ndim == 1 else divergence.mean(dim=1)
        return divergence.mul(self.temperature**2)
