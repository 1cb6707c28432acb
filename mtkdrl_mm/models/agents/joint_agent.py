# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Agent with one network over all teachers' states."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtkdrl_mm.registry import MODELS

from .base import Agent


@MODELS.register_module()
class JointAgent(Agent):
    """One MLP: all states concatenated -> hidden -> ReLU -> two heads of M scores.

    The score of a teacher depends on the states of all.

    Args:
        state_sizes (Sequence[int]): Supplied by the weighting strategy.
        hidden (int): Width of the hidden layer. Defaults to 128.
        standardize (bool): Whether the states are standardised. Defaults to
            True.
    """

    def __init__(
        self, state_sizes: Sequence[int], hidden: int = 128, standardize: bool = True
    ) -> None:
        super().__init__(state_sizes, standardize)
        self.stem = nn.Sequential(nn.Linear(sum(state_sizes), hidden), nn.ReLU())
        self.logit_head = nn.Linear(hidden, len(state_sizes))
        self.feature_head = nn.Linear(hidden, len(state_sizes))

    def scores(self, states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Both heads on the common hidden layer."""
        hidden = self.stem(torch.cat(list(states), dim=1))
        return self.logit_head(hidden), self.feature_head(hidden)
