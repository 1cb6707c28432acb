# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Values that the processes of a distributed run exchange."""

from collections.abc import Iterable
from copy import copy
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import broadcast_object_list
from torch import Tensor, nn


def world_size() -> int:
    """Number of processes, 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, 0 where nothing is distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def broadcast_from_main(value: Any) -> Any:
    """Broadcast a value of the main process to all processes.

    Args:
        value (Any): A plain object; that of other processes is ignored.

    Returns:
        Any: The main process's value.
    """
    if world_size() == 1:
        return value
    values = [copy(value)]
    broadcast_object_list(values)
    return values[0]


def local_shard() -> slice:
    """This process's rows of what all processes have.

    Data samplers deal images out in turn: of a batch of one process, process r
    of R has the images r, r + R, r + 2R and so on.
    """
    return slice(rank(), None, world_size())


def gather_interleaved(tensor: Tensor) -> Tensor:
    """Bring the rows of all processes together, in the order of one process.

    Args:
        tensor (Tensor): This process's rows, shape (B, K), on the CPU.

    Returns:
        Tensor: Shape (sum of all B, K), the same on all processes.
    """
    if world_size() == 1:
        return tensor
    parts: list[Tensor] = [tensor] * world_size()
    dist.all_gather_object(parts, tensor)
    rows = [torch.arange(len(part)).mul(world_size()).add(r) for r, part in enumerate(parts)]
    return torch.cat(parts)[torch.cat(rows).argsort()]


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Average a tensor over all processes.

    Args:
        tensor (Tensor): Of the same shape on every process.

    Returns:
        Tensor: The mean, the same bits on every process.
    """
    count = world_size()
    if count == 1:
        return tensor
    total = tensor.detach().clone()
    if dist.get_backend() == 'nccl' and not total.is_cuda:
        total = total.cuda()
    dist.all_reduce(total)
    return (total / count).to(tensor.device)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over all processes, in place, in one message.

    Args:
        parameters (Iterable[nn.Parameter]): Parameters with gradients.
    """
    if world_size() == 1:
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
    if world_size() == 1:
        return
    device = next(module.parameters()).device
    if dist.get_backend() == 'nccl':
        device = torch.device('cuda', torch.cuda.current_device())
    digest = torch.stack([t.detach().double().sum() for t in module.state_dict().values()]).to(
        device
    )
    low, high = digest.clone(), digest.clone()
    dist.all_reduce(low, op=dist.ReduceOp.MIN)
    dist.all_reduce(high, op=dist.ReduceOp.MAX)
    if not torch.equal(low, high):
        raise RuntimeError(
            f'The processes hold different {what}s (largest difference of a sum: '
            f'{float((high - low).abs().max()):.3g}). Start again from the last checkpoint.'
        )
