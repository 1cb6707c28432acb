# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""An agent that first learns to shorten what it sees."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mtkdrl_mm.rl.algorithms import Policy
from mtkdrl_mm.utils import InputError

from .base import Agent


class ProjectingAgent(Agent):
    """A learned linear layer for every teacher's embedding and logits, then another agent.

    It bounds the agent's own layers and lets teachers of very different sizes
    weigh alike in them. The history still holds whole states, since the layers
    learn from them; to bound it too, take :class:`TeacherState`'s random
    projection.

    Args:
        build (Callable): Builds the other agent from its ``state_sizes`` and its
            ``tail_size``.
        state_sizes (Sequence[int]): Lengths of the M teachers' states.
        part_sizes (Sequence[tuple[int, int]]): Lengths of embedding and logits,
            with which every state begins.
        size (int): Length that they are brought to where they are longer.

    Raises:
        InputError: If the states have neither embedding nor logits.
    """

    def __init__(
        self,
        build: Callable[[Sequence[int], int], Agent],
        state_sizes: Sequence[int],
        part_sizes: Sequence[tuple[int, int]],
        size: int,
    ) -> None:
        if sum(map(sum, part_sizes)) == 0:
            raise InputError(
                '`learned_projection_size` of the weighting: without `performance` there is '
                'nothing to project.'
            )
        projected = [[min(length, size) for length in parts] for parts in part_sizes]
        tail = state_sizes[0] - sum(part_sizes[0])
        agent = build([sum(parts) + tail for parts in projected], tail + projected[0][1])
        # Statistics are those of the states, and not of what is learned from them.
        super().__init__(state_sizes, standardize=agent.normalizer is not None)
        self.splits = [(*parts, tail) for parts in part_sizes]
        self.layers = nn.ModuleList(
            nn.ModuleList(
                nn.Linear(length, size) if length > size else nn.Identity() for length in parts
            )
            for parts in part_sizes
        )
        agent.normalizer = None
        self.agent = agent

    def project(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Shorten the states.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, state_sizes[m]).

        Returns:
            list[Tensor]: M tensors of shape (B, at most 2 * size + 3).
        """
        projected = []
        for state, sizes, layers in zip(states, self.splits, self.layers):
            *parts, tail = state.split(sizes, dim=1)
            assert isinstance(layers, nn.ModuleList)
            shortened = [layer(part) for layer, part in zip(layers, parts)]
            projected.append(torch.cat([*shortened, tail], dim=1))
        return projected

    def scores(self, states: Sequence[Tensor]) -> Policy:
        """The other agent's scores of the shortened states."""
        return self.agent.scores(self.agent.normalize(self.project(states)))
