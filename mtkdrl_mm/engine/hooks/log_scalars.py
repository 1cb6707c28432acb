# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Logging of several numbers of a step."""

from collections.abc import Sequence

from mmengine.runner import Runner
from torch import Tensor


def log_scalars(runner: Runner, names: Sequence[str], values: Tensor | None) -> None:
    """Add the numbers of a training step to mmengine's message hub.

    ``LoggerHook`` prints their means over its window, as it does for losses.
    All numbers reach the host in one copy.

    Args:
        runner (Runner): The runner.
        names (Sequence[str]): Names of the numbers, without 'train/'.
        values (Tensor, optional): The numbers, shape (len(names),). None logs
            nothing.
    """
    if values is not None:
        for name, value in zip(names, values.tolist()):
            runner.message_hub.update_scalar(f'train/{name}', value)
