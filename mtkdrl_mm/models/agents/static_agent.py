# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Agent that weighs all images alike."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtkdrl_mm.registry import MODELS

from .base import Agent


@MODELS.register_module()
class StaticAgent(Agent):
    """Two scores per teacher, which do not depend on the state.

    The ceiling of weights that are the same for all images: what another agent
    gains over it, it gains by weighing image by image.

    Args:
        state_sizes (Sequence[int]): Supplied by the weighting strategy.
    """

    def __init__(self, state_sizes: Sequence[int]) -> None:
        super().__init__(state_sizes, standardize=False)
        self.logit_scores = nn.Parameter(torch.zeros(len(state_sizes)))
        self.feature_scores = nn.Parameter(torch.zeros(len(state_sizes)))

    def scores(self, states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The scores, once for every image."""
        size = len(states[0]), len(states)
        return self.logit_scores.expand(size), self.feature_scores.expand(size)
