# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The critic of the actor-critic algorithms."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Critic(nn.Module):
    """Q(s, a): what weighing the teachers by a is worth on an image.

    Args:
        state_sizes (Sequence[int]): Lengths of the M teachers' states.
        hidden (int): Width of the hidden layer. Defaults to 128.
    """

    def __init__(self, state_sizes: Sequence[int], hidden: int = 128) -> None:
        super().__init__()
        count = len(state_sizes)
        self.state_layer = nn.Linear(sum(state_sizes), hidden)
        self.action_layer = nn.Linear(2 * count, hidden)
        self.value = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, 1)

    def forward(self, states: Sequence[Tensor], action: Tensor) -> Tensor:
        """Value the actions.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, s_m), as the agent
                sees them.
            action (Tensor): [pi_l | pi_f] of shape (B, 2M).

        Returns:
            Tensor: Q of shape (B,).
        """
        hidden = self.state_layer(torch.cat(list(states), dim=1)) + self.action_layer(action)
        return self.head(self.value(hidden)).squeeze(-1)
