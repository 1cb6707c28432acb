# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Advantages: rewards, normalised for the policy update."""

from abc import ABCMeta, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from mtkdrl_mm.registry import TASK_UTILS
from mtkdrl_mm.utils.distributed import all_reduce_mean


class Advantage(metaclass=ABCMeta):
    """Normalises the rewards for the policy update.

    In two stages: :meth:`normalize_step` when a training step is observed, and
    :meth:`__call__` when the agent is updated from what the buffer has kept. An
    advantage that compares images does so in the first stage, where it sees all
    images of a step: a full buffer keeps some of them, beside others of other
    steps. All others need the second stage alone.

    Attributes:
        is_non_negative (bool): Whether no advantage is below 0, as
            :class:`WeightedBCE` needs. Defaults to False.
    """

    is_non_negative: ClassVar[bool] = False

    def normalize_step(self, rewards: Tensor) -> Tensor:
        """Normalise over the images of a training step; by default nothing is changed.

        Called once per step, on all processes.

        Args:
            rewards (Tensor): Those of this process, shape (B, M); B may be 0.

        Returns:
            Tensor: What the buffer keeps, of the same shape.
        """
        return rewards

    def observe(self, rewards: Tensor) -> None:  # noqa: B027, most have no statistics
        """Update running statistics; called once per update, before any :meth:`__call__`.

        Args:
            rewards (Tensor): Those that this process has kept, shape (N, M); N may be 0.
        """

    @abstractmethod
    def __call__(self, rewards: Tensor) -> Tensor:
        """Normalise a mini batch of the update, image by image.

        Args:
            rewards (Tensor): What :meth:`normalize_step` returned, shape (N, M).

        Returns:
            Tensor: A of the same shape.
        """

    def state_dict(self) -> dict[str, Any]:
        """State to be saved for exact resuming; empty by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restore what :meth:`state_dict` returned."""


@TASK_UTILS.register_module()
class MinMaxAdvantage(Advantage):
    r"""Min-max over the teachers of each image, minus their mean.

    .. math::
        n^m = \frac{R^m - \min_k R^k}{\max_k R^k - \min_k R^k + \epsilon},
        \qquad A^m = n^m - \mathrm{mean}_k n^k

    It is 0 where all rewards of an image are equal, and for M = 1. Every image
    counts alike, however small the differences between its teachers are.
    Source: arXiv:2502.18510, section "Policy optimization"; the mean is that of
    the normalised rewards.

    Args:
        eps (float): Guards against division by 0. Defaults to 1e-8.
    """

    def __init__(self, eps: float = 1e-8) -> None:
        self.eps = eps

    def __call__(self, rewards: Tensor) -> Tensor:
        """Advantages in [-1, 1], shape (N, M)."""
        low = rewards.amin(dim=1, keepdim=True)
        high = rewards.amax(dim=1, keepdim=True)
        normalised = (rewards - low) / (high - low + self.eps)
        return normalised - normalised.mean(dim=1, keepdim=True)


@TASK_UTILS.register_module()
class StandardizedAdvantage(Advantage):
    r"""Rewards minus their mean over teachers, over a running standard deviation.

    .. math::
        A_i^m = \frac{R_i^m - \mathrm{mean}_k R_i^k}{\sigma + \epsilon}

    with sigma the running root mean square of the numerator over images and
    teachers. Images whose teachers hardly differ count little.

    Args:
        momentum (float): Share of the new value in the running variance.
            Defaults to 0.1.
        clip (float): Greatest absolute advantage. Defaults to 5.
        eps (float): Guards against division by 0. Defaults to 1e-8.
    """

    def __init__(self, momentum: float = 0.1, clip: float = 5.0, eps: float = 1e-8) -> None:
        if not 0 < momentum <= 1:
            raise ValueError(f'`momentum` must be in (0, 1], but is {momentum!r}.')
        self.momentum = momentum
        self.clip = clip
        self.eps = eps
        self.variance: float = 0.0
        self.started = False

    def observe(self, rewards: Tensor) -> None:
        """Move the running variance."""
        squares = self._centred(rewards).square()
        # As sums, since processes need not hold the same number of images.
        sums = torch.stack([squares.sum(), squares.new_tensor(squares.numel())])
        total, count = all_reduce_mean(sums)
        variance = float(total / count)
        if self.started:
            variance = (1 - self.momentum) * self.variance + self.momentum * variance
        self.variance, self.started = variance, True

    def __call__(self, rewards: Tensor) -> Tensor:
        """Advantages in units of the running deviation, shape (N, M)."""
        advantages = self._centred(rewards) / (self.variance**0.5 + self.eps)
        return advantages.clamp(-self.clip, self.clip).to(rewards.dtype)

    @staticmethod
    def _centred(rewards: Tensor) -> Tensor:
        # In float64 the mean of equal numbers is exactly that number: rounding errors, which
        # the division by a tiny sigma would blow up, cannot arise.
        rewards = rewards.double()
        return rewards - rewards.mean(dim=1, keepdim=True)

    def state_dict(self) -> dict[str, Any]:
        """The running variance."""
        return dict(variance=self.variance, started=self.started)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the running variance."""
        self.variance, self.started = state['variance'], state['started']


@TASK_UTILS.register_module()
class BatchZScoreAdvantage(Advantage):
    r"""The authors' released normaliser: z-scores over the batch, clamped to [0, 1].

    .. math::
        A_i^m = \mathrm{clamp}\Big(\frac{R_i^m - \mathrm{mean}\, R}
            {\mathrm{std}\, R + \epsilon}, 0, 1\Big)

    with mean and (population) standard deviation over the images and teachers
    of a training step, on all processes. Images below the mean count nothing.
    The student improves while the buffer fills, so an image is compared with
    those of its own step alone, whichever of them the buffer keeps.

    Args:
        eps (float): Guards against division by 0. Defaults to 1e-8.
    """

    is_non_negative = True

    def __init__(self, eps: float = 1e-8) -> None:
        self.eps = eps

    def normalize_step(self, rewards: Tensor) -> Tensor:
        """Advantages in [0, 1], shape (B, M)."""
        values = rewards.double()
        # As sums, since a step need not have as many images on every process.
        sums = torch.stack([values.new_tensor(values.numel()), values.sum()])
        count, total = all_reduce_mean(sums)
        centred = values - total / count
        variance = all_reduce_mean(centred.square().sum()) / count
        return (centred / (variance.sqrt() + self.eps)).clamp(0, 1).to(rewards.dtype)

    def __call__(self, rewards: Tensor) -> Tensor:
        """What :meth:`normalize_step` returned."""
        return rewards
