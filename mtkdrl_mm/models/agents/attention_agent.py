# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Agent with attention over the set of teachers."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.rl import RolloutBuffer, StateLayout
from mtkdrl_mm.utils import check_flag, check_number

from .base import Agent
from .state_normalizer import StateNormalizer


@MODELS.register_module()
class AttentionAgent(Agent):
    """Transformer layer with one token per teacher.

    Teachers attend to each other, so the agent can notice two that agree.
    Nothing in the network depends on their number or order: an agent that was
    trained with one pool works with another of the same classes. For this,
    embeddings of all sizes are averaged into the same number of bins.

    Args:
        layout (StateLayout): Supplied by the weighting strategy.
        embedding_bins (int): Entries that an embedding is averaged into.
            Defaults to 64.
        hidden (int): Width of the tokens. Defaults to 128.
        heads (int): Attention heads. Defaults to 4.
        standardize (bool): Whether the states are standardised, with the same
            statistics for all teachers. Defaults to True.
    """

    def __init__(
        self,
        layout: StateLayout,
        embedding_bins: int = 64,
        hidden: int = 128,
        heads: int = 4,
        standardize: bool = True,
    ) -> None:
        super().__init__(layout.sizes, standardize=False)
        self.layout = layout
        self.embedding_bins = int(check_number('embedding_bins', embedding_bins, minimum=1))
        size = layout.shared_size + self.embedding_bins * layout.has_embeddings
        check_flag('standardize', standardize)
        self.normalizer = StateNormalizer([size]) if standardize else None
        self.encoder = nn.Sequential(nn.Linear(size, hidden), nn.ReLU())
        self.attention = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.head = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, 2))

    def tokens(self, states: Sequence[Tensor]) -> Tensor:
        """States of any size as tokens of one size.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, s_m).

        Returns:
            Tensor: Shape (B, M, embedding_bins + shared_size of the layout).
        """
        if not self.layout.has_embeddings:
            return torch.stack(list(states), dim=1)
        tokens = []
        for m, state in enumerate(states):
            embedding, logits, rest = self.layout.split(m, state)
            bins = F.adaptive_avg_pool1d(embedding[:, None], self.embedding_bins)[:, 0]
            tokens.append(torch.cat([bins, logits, rest], dim=1))
        return torch.stack(tokens, dim=1)

    def normalize(self, states: Sequence[Tensor]) -> Sequence[Tensor]:
        """The states as tokens, M tensors of shape (B, K), standardised if that is on."""
        tokens = self.tokens(states)
        if self.normalizer is not None:
            (tokens,) = self.normalizer([tokens])
        return tokens.unbind(dim=1)

    def update_state_stats(self, buffer: RolloutBuffer) -> None:
        """Move the statistics, which are the same for all teachers."""
        if self.normalizer is not None:
            self.normalizer.update(buffer, lambda states: self.tokens(states).flatten(0, 1))

    @property
    def normalized_sizes(self) -> list[int]:
        """Lengths of what :meth:`normalize` returns."""
        return [self.encoder[0].in_features] * len(self.state_sizes)

    def scores(self, states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Each token's two scalars after attending to all tokens."""
        tokens = self.encoder(torch.stack(list(states), dim=1))
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        scores = self.head(tokens + attended)
        return scores[..., 0], scores[..., 1]
