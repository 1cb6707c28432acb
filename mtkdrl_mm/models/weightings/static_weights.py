# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The same weights for every image, given by the config."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms, TeacherWeights
from mtkdrl_mm.utils import InputError

from ..numbers_by_teacher import numbers_by_teacher
from ..teachers import PoolSpec
from .base import Weighting


@MODELS.register_module()
class StaticWeights(Weighting):
    """Every teacher has a weight of its own, which is the same for all images.

    A baseline for methods that weigh image by image: a single teacher, a subset
    of the pool, or the best weights that a search has found.

    Args:
        pool (PoolSpec): The pool of M teachers; supplied by the distiller.
        logit (Mapping[str, float]): Logit weights by the teachers' names, at
            least 0. They are divided by their sum. Teachers that are not named
            have the weight 0.
        feature (Mapping[str, float], optional): Feature weights. Defaults to
            None: those of the logits.

    Raises:
        InputError: If these are no weights by name, a teacher is not in the pool,
            a weight is negative or no number, or all are 0.

    Example:
        >>> from mtkdrl_mm.models import PoolSpec, StaticWeights
        >>> pool = PoolSpec(('a', 'b', 'c'), 10, embedding_sizes=(4,) * 3, map_channels=(None,) * 3)
        >>> StaticWeights(pool, logit=dict(a=3, c=1)).logit
        tensor([0.7500, 0.0000, 0.2500])
    """

    logit: Tensor
    feature: Tensor

    def __init__(
        self,
        pool: PoolSpec,
        logit: Mapping[str, float],
        feature: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(pool)
        # From the config, and not from a checkpoint.
        self.register_buffer('logit', normalised_weights(pool, 'logit', logit), persistent=False)
        feature = logit if feature is None else feature
        self.register_buffer(
            'feature', normalised_weights(pool, 'feature', feature), persistent=False
        )

    def forward(self, terms: StepTerms) -> TeacherWeights:
        """The weights, for every image."""
        shape, like = terms.logit_loss.shape, terms.logit_loss
        return TeacherWeights(
            logit=self.logit.to(like).expand(shape), feature=self.feature.to(like).expand(shape)
        )


def normalised_weights(pool: PoolSpec, part: str, weights: Mapping[str, float]) -> Tensor:
    """Weights by name, in the order of the pool, divided by their sum.

    Args:
        pool (PoolSpec): The pool of M teachers.
        part (str): The argument that gives them, for messages.
        weights (Mapping[str, float]): By the teachers' names.

    Returns:
        Tensor: Shape (M,).

    Raises:
        InputError: See :class:`StaticWeights`.
    """
    values = numbers_by_teacher(f'weighting.{part}', weights, pool.names, default=0)
    total = sum(values)
    if total <= 0:
        raise InputError(
            f'`weighting.{part}` gives no teacher a weight: name at least one of '
            f'{", ".join(pool.names)}.'
        )
    return torch.tensor([value / total for value in values])
