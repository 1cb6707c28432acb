# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What mmengine.dist lacks: means, shards and checks over the processes of a run."""

import os
import os.path as osp
import socket
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
from mmengine.dist import (
    all_gather_object,
    all_reduce,
    broadcast,
    broadcast_object_list,
    get_rank,
    get_world_size,
    is_main_process,
)
from torch import Tensor, nn

from .errors import InputError

# A file of another machine may appear on a network file system some seconds late.
_SECONDS_TO_APPEAR = 10.0
# Between two signs of life of a process that others wait for. Each waits for the batches of all.
_SECONDS_BETWEEN_SIGNS = 20.0


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


@torch.no_grad()
def broadcast_buffers(model: nn.Module) -> None:
    """Give all processes the main process's buffers, as far as a checkpoint holds them.

    Args:
        model (nn.Module): The model, without wrappers; changed in place.
    """
    if get_world_size() == 1:
        return
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in saved:
            broadcast(buffer)


class UnevenWork:
    """Work of which some processes may have much more than others.

    In a barrier, those that are ready first would end the run once they have waited for
    as long as the process group's time limit, which is meant for lost processes.
    """

    def __init__(self) -> None:
        self._last_sign = time.monotonic()

    def go_on(self) -> None:
        """Tell the processes that are ready that this one is not; to be called often."""
        if time.monotonic() - self._last_sign >= _SECONDS_BETWEEN_SIGNS:
            self._count_busy(1)
            self._last_sign = time.monotonic()

    def wait(self) -> None:
        """Wait until all processes are ready; to be called on all of them."""
        while self._count_busy(0) > 0:
            pass

    @staticmethod
    def _count_busy(own: int) -> int:
        count = torch.tensor(own)
        all_reduce(count)
        return int(count)


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


def check_shared_folder(folder: str, what: str) -> None:
    """Make sure that all processes see the same folder. Must be called on all of them.

    Machines with a folder of that name each on a disk of its own would each write
    a part, and no one would have the whole.

    Args:
        folder (str): The folder, which is made if it does not exist.
        what (str): What is in it, for the message.

    Raises:
        InputError: On all processes, if one does not see what the main process
            writes. A folder that the main process cannot write is not looked at.
    """
    blind = _blind_processes(folder)
    if blind:
        rank, other = next(iter(blind.items()))
        host = broadcast_from_main(socket.gethostname())
        raise InputError(
            f'{what} must be in a folder that all processes share, but process {rank} on '
            f'"{other}" does not see what process 0 on "{host}" writes to "{folder}". Set a '
            'folder on a disk that all machines see.'
        )


def is_shared_folder(folder: str) -> bool:
    """Whether all processes see what the main process writes. Must be called on all of them.

    Args:
        folder (str): The folder, which is made if it does not exist.

    Returns:
        bool: The same on all processes; False also if the main process cannot write it.
    """
    return _blind_processes(folder) == {}


def _blind_processes(folder: str) -> dict[int, str] | None:
    """Processes that do not see what the main one writes, and their hosts; None if it cannot."""
    if get_world_size() == 1:
        return {}
    path = None
    if is_main_process():
        with suppress(OSError):
            os.makedirs(folder, exist_ok=True)
            handle, path = tempfile.mkstemp(prefix='.shared-', dir=folder)
            os.close(handle)
    name = broadcast_from_main(path and osp.basename(path))
    if name is None:
        return None
    seen = _appears(osp.join(folder, name))
    hosts = all_gather_object(None if seen else socket.gethostname())
    if path is not None:
        with suppress(OSError):
            os.remove(path)
    return {rank: host for rank, host in enumerate(hosts) if host is not None}


def _appears(path: str) -> bool:
    deadline = time.monotonic() + _SECONDS_TO_APPEAR
    while not osp.exists(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
