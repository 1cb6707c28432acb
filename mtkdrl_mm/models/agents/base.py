# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Base classes of the policies and agents."""

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor

from mtkdrl_mm.rl import RolloutBuffer
from mtkdrl_mm.rl.algorithms import LogProbs
from mtkdrl_mm.utils import check_flag

from .state_normalizer import StateNormalizer


class Policy(BaseModule, metaclass=ABCMeta):
    """What an RL algorithm trains: two distributions over the teachers per image.

    Args:
        state_sizes (Sequence[int]): Lengths of the M teachers' states.
    """

    def __init__(self, state_sizes: Sequence[int]) -> None:
        super().__init__()
        self.state_sizes = list(state_sizes)

    @abstractmethod
    def forward(self, states: Sequence[Tensor]) -> LogProbs:
        """Log probabilities of the teachers.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, state_sizes[m]).

        Returns:
            tuple[Tensor, Tensor]: log pi_l and log pi_f, each of shape (B, M).
        """

    @property
    def normalized_sizes(self) -> list[int]:
        """Lengths of what :meth:`normalize` returns, for the critic."""
        return self.state_sizes

    @abstractmethod
    def normalize(self, states: Sequence[Tensor]) -> Sequence[Tensor]:
        """The states as the networks read them.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, state_sizes[m]).

        Returns:
            Sequence[Tensor]: M tensors of shape (B, normalized_sizes[m]).
        """

    @abstractmethod
    def update_state_stats(self, buffer: RolloutBuffer) -> None:
        """Move the running statistics of the states; called once per update."""


class Agent(Policy):
    """Policy that is a softmax of learned scores, for logits and for features.

    Subclasses implement :meth:`scores`; the softmax over the teachers and the
    standardisation of the states are the same for all.

    Args:
        state_sizes (Sequence[int]): Lengths of the M teachers' states;
            supplied by the weighting strategy.
        standardize (bool): Whether the states are standardised. Defaults to
            True.
    """

    def __init__(self, state_sizes: Sequence[int], standardize: bool = True) -> None:
        super().__init__(state_sizes)
        check_flag('standardize', standardize)
        self.normalizer = StateNormalizer(state_sizes) if standardize else None

    @abstractmethod
    def scores(self, states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Score the teachers; the softmax of the scores is the policy.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, state_sizes[m]),
                standardised if that is switched on.

        Returns:
            tuple[Tensor, Tensor]: Scores of the logit and of the feature head,
            each of shape (B, M).
        """

    def forward(self, states: Sequence[Tensor]) -> LogProbs:
        """Log softmax of the scores; see :meth:`Policy.forward`."""
        logit, feature = self.scores(self.normalize(states))
        return logit.log_softmax(dim=1), feature.log_softmax(dim=1)

    def normalize(self, states: Sequence[Tensor]) -> Sequence[Tensor]:
        """The states, standardised if that is switched on."""
        return states if self.normalizer is None else self.normalizer(states)

    def update_state_stats(self, buffer: RolloutBuffer) -> None:
        """Move the running statistics of the states; called once per update."""
        if self.normalizer is not None:
            self.normalizer.update(buffer)
