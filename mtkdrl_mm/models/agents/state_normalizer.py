# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Standardisation of the states, whose parts have very different scales."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mtkdrl_mm.rl import RolloutBuffer
from mtkdrl_mm.utils.distributed import all_reduce_mean

# Eight times the relative rounding error of half precision, 2^-11.
HALF_ROUNDING = 2.0**-8

RowsOf = Callable[[list[Tensor]], Tensor]


class StateNormalizer(nn.Module):
    r"""Standardises every entry of every state, clipped.

    .. math::
        \frac{s - \mu}{\sqrt{\sigma^2 + (2^{-8} \mu)^2 + 10^{-6}}}

    The statistics move only when the agent is updated, from the rollout buffer
    of all processes. The agent is therefore the same function for all steps in
    between. They are saved with the agent.

    Args:
        state_sizes (Sequence[int]): Lengths of the M teachers' states.
        momentum (float): Share of the new buffer in the statistics; the first
            buffer counts fully. Defaults to 0.1.
        clip (float): Greatest absolute entry. Defaults to 5.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(
        self, state_sizes: Sequence[int], momentum: float = 0.1, clip: float = 5.0
    ) -> None:
        super().__init__()
        self.state_sizes = list(state_sizes)
        self.momentum = momentum
        self.clip = clip
        self.register_buffer('mean', torch.zeros(sum(state_sizes)))
        self.register_buffer('variance', torch.ones(sum(state_sizes)))
        self.register_buffer('count', torch.zeros((), dtype=torch.long))

    def forward(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Standardise.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, state_sizes[m]).

        Returns:
            list[Tensor]: Of the same shapes.
        """
        # The buffer holds states in half precision: where an entry hardly differs between
        # images, most of its deviation is rounding, which must not be scaled up to 1.
        rounding = self.mean.mul(HALF_ROUNDING).square()
        scale = self.variance.add(rounding).add(1e-6).rsqrt()
        # In place, on the differences.
        return [
            (state - mean).mul_(s).clamp_(-self.clip, self.clip)
            for state, mean, s in zip(
                states, self.mean.split(self.state_sizes), scale.split(self.state_sizes)
            )
        ]

    @torch.no_grad()
    def update(self, buffer: RolloutBuffer, rows_of: RowsOf | None = None) -> None:
        """Move the statistics towards those of a buffer.

        Args:
            buffer (RolloutBuffer): With at least one image on some process.
            rows_of (Callable, optional): Turns the M states of a rollout step into the
                rows that are standardised, of shape (n, sum(state_sizes)).
                Defaults to None: the states side by side.
        """
        device = self.mean.device
        total = torch.zeros_like(self.mean, dtype=torch.float64)
        count = total.new_zeros(1)
        squares = torch.zeros_like(total)
        for states, _ in buffer.iterate(device):
            flat = (torch.cat(states, dim=1) if rows_of is None else rows_of(states)).double()
            count += len(flat)
            total += flat.sum(dim=0)
            squares += flat.square().sum(dim=0)
        # Processes need not hold the same number of images.
        sums = all_reduce_mean(torch.cat([total, squares, count]))
        mean, square = sums[:-1].div(sums[-1]).chunk(2)
        variance = (square - mean.square()).clamp_min(0)
        share = self.momentum if self.count > 0 else 1.0
        self.mean.lerp_(mean.float(), share)
        self.variance.lerp_(variance.float(), share)
        self.count.add_(1)
