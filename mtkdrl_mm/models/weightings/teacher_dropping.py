# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Random dropping of the teachers that the student follows already."""

import torch
from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms, TeacherWeights
from mtkdrl_mm.utils import check_number

from ..teachers import PoolSpec
from .base import Weighting


@MODELS.register_module()
class TeacherDropping(Weighting):
    """The teacher that the student follows least is kept, others are dropped at random.

    Image by image and loss by loss, the teacher with the largest loss is always
    kept, and each of the others is dropped with the probability ``drop_rate``.
    Those that are kept have equal weights. Labels are not looked at.

    Source: Sariyildiz et al., "UNIC: Universal Classification Models via
    Multi-teacher Distillation", ECCV 2024. The authors divide by the number of
    kept teachers of the whole batch; here, as for all weightings, the weights
    of every image sum to 1.

    Args:
        pool (PoolSpec): The pool of M teachers; supplied by the distiller.
        drop_rate (float): Probability from 0 to 1. Defaults to 0.5.

    Raises:
        InputError: If ``drop_rate`` is not from 0 to 1.
    """

    def __init__(self, pool: PoolSpec, drop_rate: float = 0.5) -> None:
        super().__init__(pool)
        check_number('`weighting.drop_rate`', drop_rate, minimum=0, maximum=1)
        self.drop_rate = drop_rate

    @torch.no_grad()
    def forward(self, terms: StepTerms) -> TeacherWeights:
        """Draw the kept teachers for logits and features."""
        return TeacherWeights(
            logit=self._kept(terms.logit_loss), feature=self._kept(terms.feature_loss)
        )

    def _kept(self, losses: Tensor) -> Tensor:
        kept = torch.rand_like(losses).ge(self.drop_rate).to(losses)
        kept = kept.scatter(1, losses.argmax(dim=1, keepdim=True), 1.0)
        return kept.div(kept.sum(dim=1, keepdim=True))
