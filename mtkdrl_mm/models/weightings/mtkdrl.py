# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Weights from a reinforcement-learning agent (MTKD-RL)."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.rl import StateLayout, TeacherState
from mtkdrl_mm.structures import AgentAction, StepTerms
from mtkdrl_mm.structures.teacher_weights import confidence, divergence
from mtkdrl_mm.utils import InputError, build_component, check_number, near_matches

from ..agents import Agent, FusedPolicy, Policy, ProjectingAgent
from ..teachers import PoolSpec
from .base import Weighting

PARTS = ('agent', 'confidence', 'divergence')


@MODELS.register_module()
class MTKDRL(Weighting):
    r"""The published method: an agent's policy, fused with confidence and divergence.

    .. math::
        w_l = \mathrm{mean}(\pi_l, c, g_l), \qquad w_f = \mathrm{mean}(\pi_f, c, g_f)

    over the chosen parts: the policy pi, the confidence c and the divergence
    g, each summing to 1 over the teachers. No gradient flows from here into
    the student; the agent is trained by ``AgentHook``. Source: arXiv:2502.18510, section "Action".

    With its defaults and those of ``AgentHook`` this is MTKD-RL as published.
    ``configs/_base_/methods`` has two variants: ``mtkdrl_stacking`` (this
    project's: the action is the policy of a joint agent alone, with another
    reward and algorithm) and ``mtkdrl_as_released`` (what the authors' released
    code does).

    Args:
        pool (PoolSpec): Supplied by the distiller.
        agent (dict): The agent. Defaults to ``dict(type='PerTeacherAgent')``.
        parts (Sequence[str]): Which parts are fused. Defaults to all three,
            'agent', 'confidence' and 'divergence'.
        mixing (str): 'fixed': the mean of the parts, as above; or 'dynamic':
            the factors are learned with the agent, see :class:`FusedPolicy`.
            Defaults to 'fixed'.
        policy (str): What the RL algorithm trains: the 'agent' before the
            fusion, as published, or the 'fused' weights, with the gradient
            through the fusion. Defaults to 'agent'; 'dynamic' mixing always
            trains the fused weights.
        state (dict, optional): Arguments of :class:`TeacherState`
            (``performance``, ``gap``, ``embedding``, ``cross_entropy``, and
            ``projection_size`` for a fixed random projection of embeddings and
            logits). With
            ``learned_projection_size`` instead, the agent learns the
            projection; see :class:`ProjectingAgent`. Defaults to None.
        feature_weights (str): Where the weights of the features come from: the
            'agent'; or 'probes', weights that are the same for all images, in the
            place of the policy pi_f. These are the ones under which linear probes on
            the teachers' embeddings make the labels of held-out images most likely:
            they tell what a teacher's features know, where the agent's reward judges
            its logits. ``AgentHook`` finds them with every update; the agent still has
            its pi_f, without effect. Defaults to 'agent', as published.

    Raises:
        InputError: If an argument is unknown, or the arguments exclude each
            other.

    Attributes:
        agent (Policy): What the RL algorithm trains.
        probed_weights (Tensor, optional): The feature weights that
            ``feature_weights='probes'`` has found, shape (M,), 1/M at first; None
            without it.
        warming_up (bool): While True all weights are 1/M. True until
            :meth:`attach_trainer` is called; then set by ``AgentHook``, or by a
            training loop of one's own.

    Example:
        >>> import torch
        >>> from mmpretrain.structures import DataSample
        >>> from mtkdrl_mm.models import MultiTeacherDistiller
        >>> resnet18 = dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py')
        >>> distiller = MultiTeacherDistiller(
        ...     student=resnet18,
        ...     teachers=[dict(resnet18, name='a'), dict(resnet18, name='b')],
        ...     weighting=dict(type='MTKDRL'),
        ...     num_classes=10,
        ... ).eval()  # training needs AgentHook
        >>> distiller.weighting.warming_up = False
        >>> steps = []
        >>> handle = distiller.register_step_hook(lambda terms, weights: steps.append(weights))
        >>> samples = [DataSample().set_gt_label(label) for label in (3, 7)]
        >>> _ = distiller(torch.rand(2, 3, 64, 64), samples, mode='loss')
        >>> steps[0].logit.shape, steps[0].logit.sum(dim=1)
        (torch.Size([2, 2]), tensor([1., 1.]))
    """

    trainer_config = "agent=dict(type='mtkdrl_mm.AgentHook')"

    def __init__(
        self,
        pool: PoolSpec,
        agent: dict[str, Any] | str = 'PerTeacherAgent',
        parts: Sequence[str] = PARTS,
        mixing: str = 'fixed',
        policy: str = 'agent',
        state: dict[str, Any] | None = None,
        feature_weights: str = 'agent',
    ) -> None:
        super().__init__(pool)
        _check_choice('mixing', mixing, ('fixed', 'dynamic'))
        _check_choice('policy', policy, ('agent', 'fused'))
        _check_choice('feature_weights', feature_weights, ('agent', 'probes'))
        for part in parts:
            if part not in PARTS:
                raise InputError(f'Unknown part "{part}" in `parts`. {near_matches(part, PARTS)}')
        if len(parts) == 0 or len(set(parts)) < len(parts):
            raise InputError(f'`parts` must list at least one of {PARTS}, each once: {parts!r}.')
        self.parts = tuple(parts)
        if feature_weights == 'probes' and 'agent' not in parts:
            raise InputError(
                "`feature_weights='probes'` takes the agent's place, which is not among the "
                f"`parts` {self.parts}: add 'agent', or set `feature_weights='agent'`."
            )
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
        self.state_layout = self.state.layout(pool.embedding_sizes, pool.num_classes)
        self.agent: Policy = self._build_agent(agent, learned_size)
        if mixing == 'dynamic' or policy == 'fused':
            self._check_fused("`mixing='dynamic'`" if mixing == 'dynamic' else "`policy='fused'`")
            if feature_weights == 'probes':
                raise InputError(
                    "`feature_weights='probes'` takes the place of the agent's feature weights, "
                    "which `mixing='dynamic'` and `policy='fused'` train: set it to 'agent'."
                )
            self.agent = FusedPolicy(
                self.agent, self.parts, self.state_layout, learned=mixing == 'dynamic'
            )
        self.probed_weights: Tensor | None
        equal = torch.full((pool.num_teachers,), 1 / pool.num_teachers)
        self.register_buffer('probed_weights', equal if feature_weights == 'probes' else None)
        # Outside of the agent's own updates nothing else, DDP's reducer
        # included, is to expect gradients here.
        self.agent.requires_grad_(False)
        self.warming_up = True
        self._has_warned = False

    def attach_trainer(self) -> None:
        """Note that something trains the agent, whose weights are used from now on.

        A warm-up is up to the trainer, which sets :attr:`warming_up`.
        """
        super().attach_trainer()
        self.warming_up = False

    def set_probed_weights(self, weights: Tensor) -> None:
        """Take over feature weights, with ``feature_weights='probes'``.

        Args:
            weights (Tensor): One per teacher, shape (M,), summing to 1.
        """
        assert self.probed_weights is not None
        self.probed_weights.copy_(weights)

    def _build_agent(self, cfg: dict[str, Any] | str, learned_size: int | None) -> Agent:
        if learned_size is None:
            return self._build_plain_agent(cfg, self.state_layout)
        size = int(check_number('learned_projection_size', learned_size, minimum=1))
        cfg = dict(type=cfg) if isinstance(cfg, str) else dict(cfg)
        # The statistics are those of the states, not of what is learned from them.
        standardize = cfg.pop('standardize', True)
        return ProjectingAgent(
            self.state_layout,
            size,
            lambda layout: self._build_plain_agent(dict(cfg, standardize=False), layout),
            standardize,
        )

    def _build_plain_agent(self, cfg: dict[str, Any] | str, layout: StateLayout) -> Agent:
        return build_component(
            MODELS,
            cfg,
            Agent,
            'agent',
            state_sizes=layout.sizes,
            layout=layout,
            names=self.pool.module_names,
        )

    def _check_fused(self, what: str) -> None:
        if 'agent' not in self.parts or len(self.parts) < 2:
            raise InputError(
                f"{what} needs 'agent' and another of {PARTS} in `parts`, but they are "
                f'{self.parts}.'
            )
        if not (self.state.performance and self.state.gap and self.state.cross_entropy):
            raise InputError(
                f'{what} reads confidence and divergence from the state: leave `performance`, '
                '`cross_entropy` and `gap` of `state` True.'
            )

    @torch.no_grad()
    def forward(self, terms: StepTerms) -> AgentAction:
        """The fused action; 1/M while warming up."""
        states = self.state(terms)
        log_probs = self.agent(states)
        logit, feature = log_probs[0].exp(), log_probs[1].exp()
        if self.probed_weights is not None:
            feature = self.probed_weights.expand_as(feature)
        if self.warming_up:
            self._warn_of_equal_weights()
            logit = feature = torch.full_like(logit, 1 / terms.num_teachers)
        elif not isinstance(self.agent, FusedPolicy):
            logit_parts = dict(agent=logit)
            feature_parts = dict(agent=feature)
            if 'confidence' in self.parts:
                shared = confidence(terms.teacher_ce)
                logit_parts['confidence'] = feature_parts['confidence'] = shared
            if 'divergence' in self.parts:
                logit_parts['divergence'] = divergence(terms.logit_loss)
                feature_parts['divergence'] = divergence(terms.feature_cosine)
            logit = torch.stack([logit_parts[part] for part in self.parts]).mean(dim=0)
            feature = torch.stack([feature_parts[part] for part in self.parts]).mean(dim=0)
        return AgentAction(logit=logit, feature=feature, states=states, log_probs=log_probs)

    def _warn_of_equal_weights(self) -> None:
        """Tell a program without a trainer, as one that loads a checkpoint, what it sees."""
        if not self.has_trainer and not self._has_warned:
            self._has_warned = True
            print_log(
                'All weights of MTKDRL are 1/M, as in its warm-up, for nothing trains the agent: '
                'set `warming_up` of the weighting to False for the weights of the agent.',
                'current',
                logging.WARNING,
            )


def _check_choice(name: str, value: str, choices: tuple[str, str]) -> None:
    if value not in choices:
        raise InputError(f'`{name}` must be {choices[0]!r} or {choices[1]!r}, but is {value!r}.')
