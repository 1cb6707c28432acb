# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""One small network per teacher."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.rl.algorithms import Policy

from .base import Agent


@MODELS.register_module()
class PerTeacherAgent(Agent):
    """The paper's agent: state -> hidden -> ReLU -> two scalars, per teacher.

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
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, 2))
            for size in state_sizes
        )

    def scores(self, states: Sequence[Tensor]) -> Policy:
        """Each teacher's two scalars, from its own state alone."""
        scores = torch.stack([net(s) for net, s in zip(self.networks, states)], dim=1)
        return scores[..., 0], scores[..., 1]
