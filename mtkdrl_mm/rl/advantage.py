# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""From rewards to advantages over the other teachers."""

from abc import ABCMeta, abstractmethod
from typing import Any

from torch import Tensor


class Advantage(metaclass=ABCMeta):
    """Turns rewards into advantages, which sum to 0 over the teachers."""

    def observe(self, rewards: Tensor) -> None:  # noqa: B027, nothing to learn by default
        """Learn from the rewards of an update before they are normalised.

        Args:
            rewards (Tensor): Shape (N, M).
        """

    @abstractmethod
    def __call__(self, rewards: Tensor) -> Tensor:
        """Normalise.

        Args:
            rewards (Tensor): R of shape (N, M).

        Returns:
            Tensor: A of the same shape; all zeros where the rewards are equal
            and for M = 1.
        """

    def state_dict(self) -> dict[str, Any]:
        """What must be saved to go on exactly; nothing by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take over what :meth:`state_dict` returned."""


class MinMaxAdvantage(Advantage):
    r"""Min-max over the teachers of each image, minus the mean.

    .. math::
        n^m = \frac{R^m - \min_k R^k}{\max_k R^k - \min_k R^k + \epsilon},
        \qquad A^m = n^m - \mathrm{mean}_k n^k

    Every image counts alike, however small the differences between its
    teachers are.

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


class StandardizedAdvantage(Advantage):
    r"""Minus the mean over teachers, divided by a running standard deviation.

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
        from .distributed import all_reduce_mean

        variance = float(all_reduce_mean(self._centred(rewards).square().mean()))
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
