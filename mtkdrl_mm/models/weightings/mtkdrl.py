# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Weights from a reinforcement-learning agent."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.rl import TeacherState
from mtkdrl_mm.rl.action_parts import confidence, divergence
from mtkdrl_mm.rl.algorithms.base import entropy
from mtkdrl_mm.structures import StepTerms, TeacherWeights
from mtkdrl_mm.utils import InputError, build_component, check_number, near_matches

from ..agents import Agent, MixingAgent, ProjectingAgent
from ..teachers import PoolSpec
from .base import Weighting

PARTS = ('agent', 'confidence', 'divergence')


@MODELS.register_module()
class MTKDRL(Weighting):
    r"""The agent's action, alone or fused with strategies that need no agent.

    .. math::
        w_l = \mathrm{mean}(\pi_l, c, g_l), \qquad w_f = \mathrm{mean}(\pi_f, c, g_f)

    over the chosen parts: the policy pi, the confidence c and the divergence
    g, each summing to 1 over the teachers. The paper fuses all three. The
    default is the agent alone: the divergence favours the teacher who is
    farthest from the student, which is often the worst one, whatever the agent
    has learnt (see ``docs/reward.md``). No gradient flows from here into the student; the
    agent is trained by ``AgentHook``, without which this strategy stays in its
    warm-up. Source: arXiv:2502.18510, section "Action".

    Args:
        pool (PoolSpec): Supplied by the distiller.
        agent (dict): The policy. Defaults to ``dict(type='JointAgent')``, which
            judges every teacher in view of the others; the paper's is
            ``PerTeacherAgent``.
        parts (Sequence[str], optional): Which parts are fused, of 'agent',
            'confidence' and 'divergence'. Defaults to None: the agent alone,
            or all three where they are mixed dynamically.
        mixing (str): 'fixed': the mean of the parts, as above; or 'dynamic':
            the factors are learned with the agent, see :class:`MixingAgent`.
            Defaults to 'fixed'.
        state (dict, optional): Arguments of :class:`TeacherState`
            (``performance``, ``gap``, and ``projection_size`` for a fixed random
            projection of embeddings and logits). With
            ``learned_projection_size`` instead, the agent learns the
            projection; see :class:`ProjectingAgent`. Defaults to None.

    Attributes:
        warming_up (bool): While True all weights are 1/M. Set by ``AgentHook``.
    """

    required_hook = 'AgentHook'

    def __init__(
        self,
        pool: PoolSpec,
        agent: dict[str, Any] | None = None,
        parts: Sequence[str] | None = None,
        mixing: str = 'fixed',
        state: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(pool)
        if parts is None:
            parts = PARTS if mixing == 'dynamic' else ('agent',)
        for part in parts:
            if part not in PARTS:
                raise InputError(f'Unknown part "{part}" in `parts`. {near_matches(part, PARTS)}')
        if len(parts) == 0 or len(set(parts)) < len(parts):
            raise InputError(f'`parts` must list at least one of {PARTS}, each once: {parts!r}.')
        self.parts = tuple(parts)
        state = dict(state or {})
        learned_size = state.pop('learned_projection_size', None)
        if learned_size is not None and state.get('projection_size') is not None:
            raise InputError(
                '`state` of the weighting has both `projection_size` (random) and '
                '`learned_projection_size`: choose one.'
            )
        try:
            self.state = TeacherState(**state)
        except (TypeError, ValueError) as error:
            raise InputError(f'`state` of the weighting: {error}') from error
        self.agent: Agent = self._build_agent(agent or 'JointAgent', learned_size)
        self.mixing = mixing
        if mixing == 'dynamic':
            self._check_dynamic()
            self.agent = MixingAgent(self.agent, self.parts)
        elif mixing != 'fixed':
            raise InputError(f"`mixing` must be 'fixed' or 'dynamic', but is {mixing!r}.")
        # Outside of the agent's own updates nothing else, DDP's reducer
        # included, is to expect gradients here.
        self.agent.requires_grad_(False)
        self.warming_up = True

    def _build_agent(self, cfg: dict[str, Any] | str, learned_size: int | None) -> Agent:
        pool, sizes = self.pool, self.state_sizes
        parts = [self.state.part_sizes(size, pool.num_classes) for size in pool.embedding_sizes]

        def build(state_sizes: Sequence[int], tail_size: int) -> Agent:
            return build_component(
                MODELS, cfg, Agent, 'agent', state_sizes=state_sizes, tail_size=tail_size
            )

        if learned_size is None:
            return build(sizes, sizes[0] - parts[0][0])
        size = int(check_number('learned_projection_size', learned_size, minimum=1))
        return ProjectingAgent(build, sizes, parts, size)

    def _check_dynamic(self) -> None:
        if 'agent' not in self.parts or len(self.parts) < 2:
            raise InputError(
                f"`mixing='dynamic'` needs 'agent' and another of {PARTS} in `parts`, but they are "
                f'{self.parts}.'
            )
        if not (self.state.performance and self.state.gap):
            raise InputError(
                "`mixing='dynamic'` reads confidence and divergence from the state: leave "
                '`performance` and `gap` of `state` True.'
            )

    @property
    def state_sizes(self) -> list[int]:
        """Lengths of the M teachers' states."""
        return self.state.sizes(self.pool.embedding_sizes, self.pool.num_classes)

    @torch.no_grad()
    def forward(self, terms: StepTerms) -> TeacherWeights:
        """The fused action; 1/M while warming up."""
        states = self.state(terms)
        log_probs = self.agent(states)
        policy_entropy = (entropy(log_probs[0]) + entropy(log_probs[1])) / 2
        if self.warming_up:
            logit = feature = torch.full_like(log_probs[0], 1 / terms.num_teachers)
        elif self.mixing == 'dynamic':
            logit, feature = log_probs[0].exp(), log_probs[1].exp()
        else:
            logit, feature = self.fuse(terms, log_probs[0].exp(), log_probs[1].exp())
        return TeacherWeights(
            logit=logit, feature=feature, states=states, policy_entropy=policy_entropy
        )

    def fuse(
        self, terms: StepTerms, logit_policy: Tensor, feature_policy: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Average the chosen parts.

        Args:
            terms (StepTerms): The step's record.
            logit_policy (Tensor): pi_l of shape (B, M).
            feature_policy (Tensor): pi_f of shape (B, M).

        Returns:
            tuple[Tensor, Tensor]: w_l and w_f of shape (B, M).
        """
        logit_parts, feature_parts = [], []
        if 'agent' in self.parts:
            logit_parts.append(logit_policy)
            feature_parts.append(feature_policy)
        if 'confidence' in self.parts:
            shared = confidence(terms)
            logit_parts.append(shared)
            feature_parts.append(shared)
        if 'divergence' in self.parts:
            logit_parts.append(divergence(terms.logit_loss))
            feature_parts.append(divergence(terms.feature_cosine))
        return torch.stack(logit_parts).mean(dim=0), torch.stack(feature_parts).mean(dim=0)
