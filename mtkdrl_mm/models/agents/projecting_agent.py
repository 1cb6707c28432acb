# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Agent with a learned projection of its states."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mtkdrl_mm.rl import StateLayout
from mtkdrl_mm.utils import InputError

from .base import Agent


class ProjectingAgent(Agent):
    """Learned linear layers for embeddings and logits, then another agent.

    This bounds the size of the other agent, and gives teachers of very
    different sizes the same share of its input. The rollout buffer still holds
    whole states, since the layers learn from them; :class:`TeacherState`'s
    random projection bounds the buffer too.

    Args:
        layout (StateLayout): Layout of the states.
        size (int): Length that embeddings and logits are brought to where they
            are longer.
        build (Callable): Builds the other agent from the layout of its states;
            it must not standardise them.
        standardize (bool): Whether the states are standardised before the
            projection. Defaults to True.

    Raises:
        InputError: If the states have neither embedding nor logits.
    """

    def __init__(
        self,
        layout: StateLayout,
        size: int,
        build: Callable[[StateLayout], Agent],
        standardize: bool = True,
    ) -> None:
        if not layout.performance:
            raise InputError(
                '`learned_projection_size` of the weighting: without `performance` there is '
                'nothing to project.'
            )
        super().__init__(layout.sizes, standardize)
        self.layout = layout
        self.layers = nn.ModuleList(
            nn.ModuleList(
                nn.Linear(length, size) if length > size else nn.Identity()
                for length in (embedding_size, layout.logit_size)
            )
            for embedding_size in layout.embedding_sizes
        )
        self.agent = build(layout.shortened(size))

    def project(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Shorten the states.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, state_sizes[m]).

        Returns:
            list[Tensor]: M tensors of shape (B, at most 2 * size + 3).
        """
        projected = []
        for m, (state, layers) in enumerate(zip(states, self.layers)):
            assert isinstance(layers, nn.ModuleList)
            embedding, logits, rest = self.layout.split(m, state)
            projected.append(torch.cat([layers[0](embedding), layers[1](logits), rest], dim=1))
        return projected

    def scores(self, states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The other agent's scores of the shortened states."""
        return self.agent.scores(self.agent.normalize(self.project(states)))
