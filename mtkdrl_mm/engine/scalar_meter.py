# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Averages of logged numbers that do not make the step wait."""

from collections.abc import Sequence

import torch
from mmengine.hooks import LoggerHook
from mmengine.runner import Runner
from torch import Tensor


class ScalarMeter:
    """Sums vectors on their device and copies them to the host when asked.

    Args:
        names (Sequence[str]): Names of the vector's entries.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._sum: list[Tensor] = []
        self._count = 0

    @torch.no_grad()
    def add(self, values: Tensor) -> None:
        """Add one vector.

        Args:
            values (Tensor): Shape (len(names),).
        """
        if self._sum:
            self._sum[0] += values
        else:
            self._sum.append(values.detach().clone())
        self._count += 1

    def flush(self) -> dict[str, float]:
        """Means since the last flush, in one copy; empty if nothing was added."""
        if not self._sum:
            return {}
        mean = self._sum.pop().div(self._count)
        values = mean.tolist()
        self._count = 0
        return dict(zip(self.names, values))


def log_is_due(runner: Runner, batch_idx: int) -> bool:
    """Whether the runner's LoggerHook prints a line after this iteration.

    Args:
        runner (Runner): The runner.
        batch_idx (int): Index of the batch in the epoch, or the iteration.
    """
    for hook in runner.hooks:
        if isinstance(hook, LoggerHook):
            return (
                hook.every_n_inner_iters(batch_idx, hook.interval)
                or hook.every_n_train_iters(runner, hook.interval)
                or hook.end_of_epoch(runner.train_dataloader, batch_idx)
            )
    return True
