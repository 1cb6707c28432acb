# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Mean squared error between feature maps or embeddings."""

import torch.nn.functional as F
from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms
from mtkdrl_mm.structures.step_terms import at_least_float32

from .base import FeatureLoss


@MODELS.register_module()
class FeatureMSE(FeatureLoss):
    r"""FitNet's hint loss.

    .. math::
        D_i^m = \mathrm{mean}_{c,h,w} (r_m(F^S) - F^m)^2

    On embeddings, the mean runs over their d_m entries. Source: Romero et al.,
    "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550.

    The features of teachers differ in scale, and their squared distances by the
    square of it. A teacher with large features therefore dominates the term,
    whatever its weight. With ``relative``, the weights alone decide:

    .. math::
        D_i^m = \frac{\mathrm{mean}_{c,h,w} (r_m(F^S) - F^m)^2}
            {\mathrm{mean}_{c,h,w} (F^m)^2}

    Args:
        relative (bool): Whether the distances are divided by the mean square of
            the teacher's features of the same image. Defaults to False.

    Example:
        >>> import torch
        >>> from mmpretrain.structures import DataSample
        >>> from mtkdrl_mm.models import MultiTeacherDistiller
        >>> resnet18 = dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py')
        >>> distiller = MultiTeacherDistiller(
        ...     student=resnet18,
        ...     teachers=[dict(resnet18, name='a'), dict(resnet18, name='b')],
        ...     feature_loss=dict(type='FeatureMSE', relative=True),
        ...     num_classes=10,
        ... )
        >>> steps = []
        >>> handle = distiller.register_step_hook(lambda terms, weights: steps.append(terms))
        >>> samples = [DataSample().set_gt_label(label) for label in (3, 7)]
        >>> _ = distiller(torch.rand(2, 3, 64, 64), samples, mode='loss')
        >>> steps[0].feature_loss.shape
        torch.Size([2, 2])
    """

    def __init__(self, relative: bool = False) -> None:
        super().__init__()
        self.relative = relative

    def compare(self, index: int, terms: StepTerms, projection: Tensor, target: Tensor) -> Tensor:
        """Squared distance to one teacher's features, shape (B,)."""
        target = at_least_float32(target)
        entries = tuple(range(1, target.ndim))
        squares = F.mse_loss(at_least_float32(projection), target, reduction='none')
        # A mean would keep the squares in memory for the backward pass.
        distance = squares.sum(dim=entries).div(target.shape[1:].numel())
        if self.relative:
            # An image on which a teacher's features are all zero has no scale.
            distance = distance / target.square().mean(dim=entries).clamp_min(1e-6)
        return distance
