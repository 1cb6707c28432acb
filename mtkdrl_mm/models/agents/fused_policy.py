# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""An agent that also learns how much to listen to itself."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtkdrl_mm.rl import RolloutBuffer
from mtkdrl_mm.rl.action_parts import confidence_of, divergence
from mtkdrl_mm.rl.algorithms import Policy

from .base import Agent


class MixingAgent(Agent):
    r"""Mixes an agent with strategies that need none, by learned factors.

    .. math::
        \pi_l = a_1 \pi'_l + a_2 c + a_3 g_l, \qquad
        \pi_f = a_1 \pi'_f + a_2 c + a_3 g_f, \qquad a = \mathrm{softmax}(\theta)

    with the policy pi' of the other agent, the confidence c and the divergence
    g. The mixture is itself a policy over the teachers, so that every
    algorithm trains the factors together with the agent. Confidence and
    divergence are read from the end of the states, which therefore must hold
    both the performance and the gap part. Source: arXiv:2502.18510, section
    "Action" ('dynamic' mixing).

    Args:
        agent (Agent): The agent pi'.
        parts (Sequence[str]): What is mixed: 'agent' and one or both of
            'confidence' and 'divergence'.
    """

    def __init__(self, agent: Agent, parts: Sequence[str]) -> None:
        super().__init__(agent.state_sizes, standardize=False)
        self.agent = agent
        self.parts = tuple(parts)
        self.mixing = nn.Parameter(torch.zeros(len(self.parts)))

    @property
    def factors(self) -> Tensor:
        """The mixing factors a in the order of ``parts``, summing to 1."""
        return self.mixing.softmax(dim=0)

    def forward(self, states: Sequence[Tensor]) -> Policy:
        """Log probabilities of the mixture, each of shape (B, M)."""
        logit, feature = self.agent(states)
        cross_entropy, cosine, distance = (
            torch.stack([state[:, column] for state in states], dim=1) for column in (-3, -2, -1)
        )
        shared = confidence_of(cross_entropy).log()
        mixtures = []
        for log_probs, gap in ((logit, distance), (feature, cosine)):
            known = dict(agent=log_probs, confidence=shared, divergence=divergence(gap).log())
            parts = torch.stack([known[part] for part in self.parts])
            mixtures.append((parts + self.mixing.log_softmax(dim=0)[:, None, None]).logsumexp(0))
        return mixtures[0], mixtures[1]

    def scores(self, states: Sequence[Tensor]) -> Policy:
        """Scores of the other agent, before the mixing."""
        return self.agent.scores(states)

    @property
    def normalized_sizes(self) -> list[int]:
        """Lengths of what :meth:`normalize` returns."""
        return self.agent.normalized_sizes

    def normalize(self, states: Sequence[Tensor]) -> Sequence[Tensor]:
        """The states as the other agent sees them."""
        return self.agent.normalize(states)

    def update_state_stats(self, history: RolloutBuffer) -> None:
        """Move the statistics of the other agent."""
        self.agent.update_state_stats(history)
