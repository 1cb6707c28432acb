# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Policy that is an agent, fused with strategies that need no agent."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtkdrl_mm.rl import RolloutBuffer, StateLayout
from mtkdrl_mm.rl.algorithms import LogProbs
from mtkdrl_mm.structures.teacher_weights import confidence, divergence

from .base import Policy


class FusedPolicy(Policy):
    r"""Mixture of an agent's policy with confidence and divergence weights.

    .. math::
        \pi_l = a_1 \pi'_l + a_2 c + a_3 g_l, \qquad
        \pi_f = a_1 \pi'_f + a_2 c + a_3 g_f, \qquad a = \mathrm{softmax}(\theta)

    with the agent's policy pi', the confidence c and the divergence g. The
    mixture is itself a policy over the teachers, so every algorithm can train
    it: the gradient reaches the agent, and the factors a if they are learned,
    through the mixture. Confidence and divergence are computed from the
    states, which therefore must hold both the performance and the gap part.
    Source: arXiv:2502.18510, section "Action".

    Args:
        agent (Policy): The agent pi'.
        parts (Sequence[str]): What is mixed: 'agent' and one or both of
            'confidence' and 'divergence'.
        layout (StateLayout): Layout of the states.
        learned (bool): Whether the factors are learned ('dynamic' mixing).
            False keeps them equal. Defaults to True.
    """

    def __init__(
        self, agent: Policy, parts: Sequence[str], layout: StateLayout, learned: bool = True
    ) -> None:
        super().__init__(agent.state_sizes)
        self.agent = agent
        self.parts = tuple(parts)
        self.layout = layout
        mixing = torch.zeros(len(self.parts))
        if learned:
            self.mixing = nn.Parameter(mixing)
        else:
            self.register_buffer('mixing', mixing, persistent=False)

    @property
    def factors(self) -> Tensor:
        """The mixing factors a in the order of ``parts``, summing to 1."""
        return self.mixing.softmax(dim=0)

    def forward(self, states: Sequence[Tensor]) -> LogProbs:
        """Log probabilities of the mixture, each of shape (B, M)."""
        logit, feature = self.agent(states)
        shared = confidence(self.layout.scalar('cross_entropy', states)).log()
        mixtures = []
        for log_probs, part in ((logit, 'gap'), (feature, 'cosine')):
            gap = divergence(self.layout.scalar(part, states)).log()
            known = dict(agent=log_probs, confidence=shared, divergence=gap)
            parts = torch.stack([known[part] for part in self.parts])
            mixtures.append((parts + self.mixing.log_softmax(dim=0)[:, None, None]).logsumexp(0))
        return mixtures[0], mixtures[1]

    @property
    def normalized_sizes(self) -> list[int]:
        """Lengths of what :meth:`normalize` returns."""
        return self.agent.normalized_sizes

    def normalize(self, states: Sequence[Tensor]) -> Sequence[Tensor]:
        """The states as the agent reads them."""
        return self.agent.normalize(states)

    def update_state_stats(self, buffer: RolloutBuffer) -> None:
        """Move the running statistics of the agent."""
        self.agent.update_state_stats(buffer)
