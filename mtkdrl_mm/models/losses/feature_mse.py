# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Mean squared error between feature maps or embeddings."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms
from mtkdrl_mm.structures.step_terms import at_least_float32
from mtkdrl_mm.utils import InputError, check_flag

from .base import FeatureLoss
from .feature_scale import FeatureScale

# Features that are all the same have no scale.
_SMALLEST_SCALE = 1e-6


@MODELS.register_module()
class FeatureMSE(FeatureLoss):
    r"""FitNet's hint loss.

    .. math::
        D_i^m = \mathrm{mean}_{c,h,w} (r_m(F^S) - F^m)^2

    On embeddings, the mean runs over their d_m entries. Source: Romero et al.,
    "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550.

    The features of teachers differ in scale, and their squared distances by the
    square of it. A teacher with large features therefore dominates the term,
    whatever its weight. There are two remedies. ``normalize='dataset'`` divides
    by the variance of the teacher's features over the data set, one number per
    teacher (PHI-S, see :class:`FeatureScale`):

    .. math::
        D_i^m = \frac{\mathrm{mean}_{c,h,w} (r_m(F^S) - F^m)^2}
            {\mathrm{tr}(\mathrm{Cov}(F^m)) / c_m}

    A projection to the mean of the features then has the distance 1, of any
    teacher. ``relative`` divides by the same image's mean square instead, which
    is not centred and differs between images:

    .. math::
        D_i^m = \frac{\mathrm{mean}_{c,h,w} (r_m(F^S) - F^m)^2}
            {\mathrm{mean}_{c,h,w} (F^m)^2}

    Both change what ``feature_loss_weight`` means: choose it anew.

    Args:
        relative (bool): Whether the distances are divided by the mean square of
            the teacher's features of the same image. Defaults to False.
        normalize (str, optional): 'dataset' to divide by their variance over the
            data set. Defaults to None.
        scale_steps (int): With ``normalize='dataset'``, training steps after
            which the variances are frozen. Defaults to 2000.
        channels (Sequence[int], optional): Channels of every teacher's features;
            supplied by the distiller.

    Raises:
        InputError: If both remedies are chosen, or ``normalize`` is another word.

    Example:
        >>> import torch
        >>> from mmpretrain.structures import DataSample
        >>> from mtkdrl_mm.models import MultiTeacherDistiller
        >>> resnet18 = dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py')
        >>> distiller = MultiTeacherDistiller(
        ...     student=resnet18,
        ...     teachers=[dict(resnet18, name='a'), dict(resnet18, name='b')],
        ...     feature_loss=dict(type='FeatureMSE', normalize='dataset'),
        ...     num_classes=10,
        ... )
        >>> steps = []
        >>> handle = distiller.register_step_hook(lambda terms, weights: steps.append(terms))
        >>> samples = [DataSample().set_gt_label(label) for label in (3, 7)]
        >>> _ = distiller(torch.rand(2, 3, 64, 64), samples, mode='loss')
        >>> steps[0].feature_loss.shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        relative: bool = False,
        normalize: str | None = None,
        scale_steps: int = 2000,
        channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if normalize not in (None, 'dataset'):
            raise InputError(f'`normalize` must be "dataset" or None, but is {normalize!r}.')
        if check_flag('relative', relative) and normalize:
            raise InputError(
                '`relative` and `normalize` of FeatureMSE both scale the distances: set one.'
            )
        self.relative = relative
        self.scale: FeatureScale | None = None
        if normalize:
            if channels is None:
                raise InputError(
                    "`normalize='dataset'` needs the `channels` of the teachers' features, which "
                    'the distiller supplies if `feature_loss_weight` is above 0.'
                )
            self.scale = FeatureScale(channels, scale_steps)

    def observe(self, terms: StepTerms) -> None:
        """Move the scales on, if there are any."""
        if self.scale is not None and terms.projections is not None:
            self.scale.update([projection.target for projection in terms.projections])

    def compare(self, index: int, terms: StepTerms, projection: Tensor, target: Tensor) -> Tensor:
        """Squared distance to one teacher's features, shape (B,)."""
        target = at_least_float32(target)
        entries = tuple(range(1, target.ndim))
        squares = F.mse_loss(at_least_float32(projection), target, reduction='none')
        # A mean would keep the squares in memory for the backward pass.
        distance = squares.sum(dim=entries).div(target.shape[1:].numel())
        if self.scale is not None:
            distance = distance / self.scale.variance[index].clamp_min(_SMALLEST_SCALE)
        elif self.relative:
            distance = distance / target.square().mean(dim=entries).clamp_min(_SMALLEST_SCALE)
        return distance
