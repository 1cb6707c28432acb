# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Networks in host memory, which are on the device only while they run."""

import torch
from torch import Tensor, nn


class HostCopy:
    """Frozen parameters and buffers in host memory, copied to the device on demand.

    The weights never change, so nothing is copied back: the device's copy is
    dropped, and its memory is free for the next network. On CUDA the host
    memory is pinned.

    Args:
        module (nn.Module): The module, with its tensors in host memory.
    """

    def __init__(self, module: nn.Module) -> None:
        self._tensors: list[Tensor] = list(
            {id(t): t for t in (*module.parameters(), *module.buffers())}.values()
        )
        self._host = [tensor.data for tensor in self._tensors]
        self._device: list[Tensor] | None = None
        self._copied: torch.cuda.Event | None = None

    def prefetch(self, device: torch.device) -> None:
        """Begin to copy, while the device is computing.

        Args:
            device (torch.device): The device.
        """
        if self._device is not None:
            return
        if device.type != 'cuda':
            self._device = [tensor.to(device, copy=True) for tensor in self._host]
            return
        stream = _copy_stream(device)
        # The memory of a network that has just run may be reused.
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            self._device = self._copies(device)
            self._copied = torch.cuda.Event()
            self._copied.record(stream)

    def load(self, device: torch.device) -> None:
        """Put the device's copies in the place of the tensors.

        Args:
            device (torch.device): The device.
        """
        if self._device is None:
            self._device = (
                self._copies(device)
                if device.type == 'cuda'
                else [tensor.to(device, copy=True) for tensor in self._host]
            )
        elif self._copied is not None:
            current = torch.cuda.current_stream(device)
            current.wait_event(self._copied)
            for copy in self._device:
                copy.record_stream(current)
        self._copied = None
        for tensor, copy in zip(self._tensors, self._device):
            tensor.data = copy

    def unload(self) -> None:
        """Drop the device's copies."""
        for tensor, host in zip(self._tensors, self._host):
            tensor.data = host
        self._device = None

    def _copies(self, device: torch.device) -> list[Tensor]:
        for index, (tensor, host) in enumerate(zip(self._tensors, self._host)):
            if not host.is_pinned():
                self._host[index] = tensor.data = host.pin_memory()
        return [host.to(device, non_blocking=True) for host in self._host]


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which networks are copied."""
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    return _streams[device]
