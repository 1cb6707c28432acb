# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The same weights for every image, given by the config."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms, TeacherWeights
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.errors import near_matches

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
        self.register_buffer('logit', _normalised(pool, 'logit', logit), persistent=False)
        feature = logit if feature is None else feature
        self.register_buffer('feature', _normalised(pool, 'feature', feature), persistent=False)

    def forward(self, terms: StepTerms) -> TeacherWeights:
        """The weights, for every image."""
        shape, like = terms.logit_loss.shape, terms.logit_loss
        return TeacherWeights(
            logit=self.logit.to(like).expand(shape), feature=self.feature.to(like).expand(shape)
        )


def _normalised(pool: PoolSpec, part: str, weights: Mapping[str, float]) -> Tensor:
    if not isinstance(weights, Mapping):
        raise InputError(
            f'`weighting.{part}` must give weights by the names of teachers, for example '
            f'dict({pool.names[0]}=1.0), but is {weights!r}.'
        )
    for name, value in weights.items():
        if name not in pool.names:
            raise InputError(
                f'`weighting.{part}` names the teacher "{name}", which is not in the pool. '
                f'{near_matches(name, pool.names)}'
            )
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value < float('inf'):
            raise InputError(
                f'`weighting.{part}["{name}"]` must be a number of at least 0, but is {value!r}.'
            )
    total = sum(weights.values())
    if total <= 0:
        raise InputError(
            f'`weighting.{part}` gives no teacher a weight: name at least one of '
            f'{", ".join(pool.names)}.'
        )
    return torch.tensor([weights.get(name, 0) / total for name in pool.names])
