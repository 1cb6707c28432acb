# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Agent with one small network per teacher."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtkdrl_mm.registry import MODELS

from .base import Agent


@MODELS.register_module()
class PerTeacherAgent(Agent):
    """The published agent: per teacher, state -> hidden -> ReLU -> two scores.

    The score of a teacher depends on its own state alone. Source:
    arXiv:2502.18510.

    Args:
        state_sizes (Sequence[int]): Supplied by the weighting strategy.
        names (Sequence[str]): The teachers' names, under which a checkpoint has
            their networks. Supplied by the weighting strategy.
        hidden (int): Width of the hidden layer. Defaults to 128.
        standardize (bool): Whether the states are standardised. Defaults to
            True.
    """

    def __init__(
        self,
        state_sizes: Sequence[int],
        names: Sequence[str] | None = None,
        hidden: int = 128,
        standardize: bool = True,
    ) -> None:
        super().__init__(state_sizes, standardize)
        if names is None:
            names = [str(m) for m in range(len(state_sizes))]
        self.networks = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, 2))
                for name, size in zip(names, state_sizes)
            }
        )

    def scores(self, states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Each teacher's two scalars, from its own state alone."""
        scores = torch.stack([net(s) for net, s in zip(self.networks.values(), states)], dim=1)
        return scores[..., 0], scores[..., 1]
