# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What mmengine.dist lacks: means, shards and checks over the processes of a run."""

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.dist import (
    all_gather_object,
    all_reduce,
    broadcast_object_list,
    get_rank,
    get_world_size,
)
from torch import Tensor, nn


def broadcast_from_main(value: Any) -> Any:
    """Broadcast a value of the main process to all processes.

    Args:
        value (Any): A plain object; that of other processes is ignored.

    Returns:
        Any: The main process's value.
    """
    values = [value]
    broadcast_object_list(values)
    return values[0]


def local_shard() -> slice:
    """This process's rows of what all processes have.

    Data samplers deal images out in turn: of a batch of one process, process r
    of R has the images r, r + R, r + 2R and so on.
    """
    return slice(get_rank(), None, get_world_size())


def gather_interleaved(tensor: Tensor) -> Tensor:
    """Bring the rows of all processes together, in the order of one process.

    Args:
        tensor (Tensor): This process's rows, shape (B, K), on the CPU.

    Returns:
        Tensor: Shape (sum of all B, K), the same on all processes.
    """
    if get_world_size() == 1:
        return tensor
    parts: list[Tensor] = all_gather_object(tensor)
    rows = [torch.arange(len(part)).mul(len(parts)).add(r) for r, part in enumerate(parts)]
    return torch.cat(parts)[torch.cat(rows).argsort()]


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Average a tensor over all processes, not in place.

    Args:
        tensor (Tensor): Of the same shape on every process.

    Returns:
        Tensor: The mean, the same bits on every process.
    """
    if get_world_size() == 1:
        return tensor
    mean = tensor.detach().clone()
    all_reduce(mean, op='mean')
    return mean


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over all processes, in place, in one message.

    Args:
        parameters (Iterable[nn.Parameter]): Parameters with gradients.
    """
    if get_world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    mean = all_reduce_mean(torch.cat([g.flatten() for g in gradients]))
    for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients])):
        gradient.copy_(part.view_as(gradient))


def check_equal_over_ranks(module: nn.Module, what: str) -> None:
    """Make sure that all processes hold the same parameters.

    Args:
        module (nn.Module): The module to compare.
        what (str): Its name, for the message.

    Raises:
        RuntimeError: If the processes differ.
    """
    if get_world_size() == 1:
        return
    digest = torch.stack([t.detach().double().sum() for t in module.state_dict().values()])
    low, high = digest.clone(), digest.clone()
    all_reduce(low, op='min')
    all_reduce(high, op='max')
    if not torch.equal(low, high):
        raise RuntimeError(
            f'The processes hold different {what}s (largest difference of a sum: '
            f'{float((high - low).abs().max()):.3g}). Start again from the last checkpoint.'
        )
