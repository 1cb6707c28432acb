# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Buffers of all processes in one checkpoint."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mmengine.dist import all_gather_object, get_rank, get_world_size

Redistribute = Callable[[Sequence[dict[str, Any]], int], list[dict[str, Any]]]


class _Buffer(Protocol):
    def __len__(self) -> int: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class BufferShards:
    """Saves and restores a buffer of which every process holds a shard.

    Only the main process writes checkpoints, so all processes must call
    :meth:`gather` before one is written.

    Args:
        buffer (Buffer): This process's shard, with ``__len__``,
            ``state_dict()`` and ``load_state_dict()``.
        redistribute (Callable): Deals saved shards out to another number of
            processes.
    """

    def __init__(self, buffer: _Buffer, redistribute: Redistribute) -> None:
        self.buffer = buffer
        self.redistribute = redistribute
        self._gathered: list[dict[str, Any]] | None = None

    def gather(self) -> None:
        """Collect the shards of all processes; to be called on all of them."""
        self._gathered = None
        if get_world_size() > 1:
            shards = all_gather_object((len(self.buffer), self.buffer.state_dict()))
            filled = any(count for count, _ in shards)
            self._gathered = [state for _, state in shards] if filled else []

    def state_dict(self) -> list[dict[str, Any]]:
        """The shards in the order of the processes; empty if all are empty."""
        if self._gathered is not None:
            return self._gathered
        return [self.buffer.state_dict()] if len(self.buffer) > 0 else []

    def load_state_dict(self, shards: list[dict[str, Any]]) -> None:
        """Restore this process's shard.

        Args:
            shards (list[dict]): What :meth:`state_dict` returned, by this or
                another number of processes.

        Raises:
            ValueError: If the shards do not fit the buffer or each other.
        """
        if not shards:
            return
        if len(shards) != get_world_size():
            shards = self.redistribute(shards, get_world_size())
        self.buffer.load_state_dict(shards[get_rank()])
