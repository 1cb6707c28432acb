# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Scales of the teachers' features over the data set."""

from collections.abc import Sequence

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from mtkdrl_mm.structures.step_terms import at_least_float32
from mtkdrl_mm.utils import InputError, check_number


class FeatureScale(nn.Module):
    r"""Variance per entry of every teacher's features over the data set.

    .. math::
        s_m^2 = \mathrm{tr}(\mathrm{Cov}(F^m)) / c_m

    One number per teacher, so that neither directions nor proportions within a
    teacher's features change. The positions of a map count as samples of its
    c_m channels, as in PHI-S. Source: Ranzinger et al., "PHI-S: Distribution
    Balancing for Label-Free Multi-Teacher Distillation", arXiv:2410.01680.

    The statistics are those of all images that all processes have seen, until
    they are frozen. They are saved in checkpoints.

    Args:
        channels (Sequence[int]): Channels c_m of every teacher's features.
        steps (int): Training steps after which the statistics are frozen.

    Attributes:
        mean (Tensor): Means of all channels, of one teacher after the other,
            shape (sum(channels),).
        variance (Tensor): s_m^2, shape (M,); ones before the first step.
        samples (Tensor): Number of samples that they come from, shape (M,).
        steps_seen (Tensor): Number of steps, a scalar.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.models.losses.feature_scale import FeatureScale
        >>> scale = FeatureScale([2], steps=1000)
        >>> scale.update([torch.tensor([[0.0, 10.0], [2.0, 10.0]])])
        >>> scale.variance  # of channels with the variances 1 and 0
        tensor([0.5000])
    """

    mean: Tensor
    variance: Tensor
    samples: Tensor
    steps_seen: Tensor
    _sizes: Tensor

    def __init__(self, channels: Sequence[int], steps: int) -> None:
        super().__init__()
        self.channels = list(channels)
        self.steps = int(check_number('scale_steps', steps, minimum=1))
        self.register_buffer('mean', torch.zeros(sum(self.channels)))
        self.register_buffer('variance', torch.ones(len(self.channels)))
        self.register_buffer('samples', torch.zeros(len(self.channels)))
        self.register_buffer('steps_seen', torch.zeros((), dtype=torch.long))
        # On the device, so that no step copies it there.
        sizes = torch.tensor(self.channels, dtype=torch.float32)
        self.register_buffer('_sizes', sizes, persistent=False)
        # The same number without waiting for the device; None until it is read.
        self._known_steps: int | None = None

    @torch.no_grad()
    def update(self, targets: Sequence[Tensor]) -> None:
        """Take in the features of a step; must be called on all processes.

        Args:
            targets (Sequence[Tensor]): F^m of the M teachers, of shape
                (B, c_m, h_m, w_m) or (B, c_m).

        Raises:
            InputError: If they have other channels.
        """
        if self._known_steps is None:
            self._known_steps = int(self.steps_seen)
        if self._known_steps >= self.steps:
            return
        found = [target.shape[1] for target in targets]
        if found != self.channels:
            raise InputError(
                f'The features that are compared have {found} channels, but their scales were '
                f'set up for {self.channels}.'
            )
        # One row per channel: (c_m, samples).
        rows = [at_least_float32(target).transpose(0, 1).flatten(1) for target in targets]
        counts = self.samples.new_tensor([row.shape[1] for row in rows])
        # Deviations from the mean so far, which is the same on all processes, are as small as
        # the features allow: the difference of large squares would be inexact.
        if self._known_steps == 0:
            sums, count = _summed(torch.cat([row.sum(dim=1) for row in rows]), counts)
            self.mean.copy_(sums / self._per_channel(count))
        deviations = [
            row - mean[:, None] for row, mean in zip(rows, self.mean.split(self.channels))
        ]
        total, square, count = _summed(
            torch.cat([deviation.sum(dim=1) for deviation in deviations]),
            torch.stack([deviation.square().sum() for deviation in deviations]),
            counts,
        )
        seen = self.samples + count
        shift = total / self._per_channel(seen)
        shrink = torch.stack([part.square().sum() for part in shift.split(self.channels)])
        squared = self.variance * self.samples * self._sizes + square
        self.variance.copy_((squared / seen - shrink).div(self._sizes).clamp_min(0))
        self.mean.add_(shift)
        self.samples.copy_(seen)
        self.steps_seen.add_(1)
        self._known_steps += 1

    def _per_channel(self, values: Tensor) -> Tensor:
        """Repeat a number per teacher for each of its channels."""
        return torch.cat([v.expand(c) for v, c in zip(values, self.channels)])

    def _load_from_state_dict(self, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        super()._load_from_state_dict(*args, **kwargs)
        self._known_steps = None


def _summed(*vectors: Tensor) -> list[Tensor]:
    """Sum vectors over all processes, in one message."""
    flat = torch.cat(vectors)
    all_reduce(flat)
    return list(flat.split([len(vector) for vector in vectors]))
