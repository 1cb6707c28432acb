# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Bounded buffer of the agent's states and rewards."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor

_HALF_LIMIT = torch.finfo(torch.float16).max


class RolloutBuffer:
    """States and rewards of the images since the last update of the agent.

    The rewards are what :meth:`Advantage.normalize_step` has made of them.

    Kept in host memory, the states in half precision. Rows are added in order
    until the budget is used up; from then on reservoir sampling (Algorithm R,
    Vitter 1985) keeps every image seen with equal probability, however many
    there are. Copies from an accelerator do not make the step wait.

    A buffer that has dropped images does not grow before the next :meth:`clear`,
    not even where it is resumed with a larger budget or by more processes: what
    was dropped is gone, so only a reservoir of the size that it has can hold
    earlier and later images alike.

    The rows of one training step stay together as one rollout step, which is a
    mini batch of the update. Its rows on all processes come from the same
    training step, so several processes with small batches update the agent as
    one process with a large batch does. Processes may hold different numbers of
    rows of a step, or none. Once rows give way to later images, a rollout step
    holds images of any training steps.

    Args:
        state_sizes (Sequence[int]): Lengths of the M teachers' states.
        budget_mib (float): Greatest size in MiB. Defaults to 512.

    Raises:
        ValueError: If the budget does not hold a single image.

    Attributes:
        capacity (int): Greatest number of images.
        seen (int): Number of images added since the last :meth:`clear`.
    """

    def __init__(self, state_sizes: Sequence[int], budget_mib: float = 512.0) -> None:
        self.state_sizes = list(state_sizes)
        self.num_teachers = len(self.state_sizes)
        self.bytes_per_image = 2 * sum(self.state_sizes) + 4 * self.num_teachers
        self.capacity = int(budget_mib * 2**20 // self.bytes_per_image)
        if self.capacity < 1:
            raise ValueError(
                f'The buffer budget of {budget_mib:g} MiB holds no image: one needs '
                f'{self.bytes_per_image / 2**20:.3f} MiB.'
            )
        self.seen = 0
        self._offsets: list[int] = [0]
        # Pages of memory that no row has touched yet take no room.
        self._states = torch.empty(self.capacity, sum(self.state_sizes), dtype=torch.float16)
        self._rewards = torch.empty(self.capacity, self.num_teachers)
        # Copies under way from an accelerator: (event, rows, states, rewards).
        self._pending: deque[tuple[Any, Tensor, Tensor, Tensor]] = deque()

    def __len__(self) -> int:
        """Number of images held."""
        return self._offsets[-1]

    @property
    def num_steps(self) -> int:
        """Number of rollout steps: of training steps until the budget was used up."""
        return len(self._offsets) - 1

    @property
    def nbytes(self) -> int:
        """Greatest number of bytes of host memory; only filled rows occupy any."""
        return sum(t.numel() * t.element_size() for t in (self._states, self._rewards))

    @torch.no_grad()
    def add(self, states: Sequence[Tensor], rewards: Tensor, generator: torch.Generator) -> None:
        """Add the images of one step.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, state_sizes[m]).
            rewards (Tensor): Shape (B, M).
            generator (torch.Generator): Decides which rows give way once the
                budget is used up.
        """
        batch = rewards.shape[0]
        size = self.capacity if len(self) == self.seen else len(self)
        fill = min(batch, size - len(self))
        rows = torch.arange(len(self), len(self) + fill)
        sources = torch.arange(fill)
        if fill < batch:
            rank = torch.arange(self.seen + fill + 1, self.seen + batch + 1)
            slots = (
                torch.rand(batch - fill, generator=generator, dtype=torch.float64) * rank
            ).long()
            kept = slots < size
            rows = torch.cat([rows, slots[kept]])
            sources = torch.cat([sources, fill + kept.nonzero().flatten()])
            # Where several images of the step drew the same row, the last one stays, as if
            # they had come one by one. torch would leave it open which, differently for
            # states and rewards.
            latest = dict(zip(rows.tolist(), sources.tolist()))
            rows, sources = torch.tensor(list(latest)), torch.tensor(list(latest.values()))
        # A step without images on this process has some on others.
        if fill > 0 or (batch == 0 and len(self) < size):
            self._offsets.append(self._offsets[-1] + fill)
        self.seen += batch
        if len(rows) == 0:
            return
        if fill == batch and not rewards.is_cuda:
            self._append(states, rewards)
            return
        flat = torch.cat(list(states), dim=1)
        if len(sources) < batch:
            index = sources.to(flat.device, non_blocking=True)
            flat, rewards = flat[index], rewards[index]
        flat = _within_half(flat).half()
        self._store(rows, flat, rewards.float())

    def _append(self, states: Sequence[Tensor], rewards: Tensor) -> None:
        """Round states in host memory to their rows, which follow those that are filled."""
        rows = slice(self._offsets[-2], self._offsets[-1])
        self._rewards[rows] = rewards
        for target, state in zip(self._states[rows].split(self.state_sizes, dim=1), states):
            target.copy_(_within_half(state))

    def _store(self, rows: Tensor, states: Tensor, rewards: Tensor) -> None:
        if not states.is_cuda:
            self._states[rows], self._rewards[rows] = states, rewards
            return
        buffers = []
        for tensor in (states, rewards):
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            buffers.append(buffer.copy_(tensor, non_blocking=True))
        event = torch.cuda.Event()
        event.record()
        self._pending.append((event, rows, *buffers))
        self._drain(wait=False)

    def _drain(self, wait: bool) -> None:
        """Put copies that have arrived into their rows, in order."""
        while self._pending and (wait or self._pending[0][0].query()):
            event, rows, states, rewards = self._pending.popleft()
            event.synchronize()
            self._states[rows], self._rewards[rows] = states, rewards

    def get(self, step: int, device: torch.device) -> tuple[list[Tensor], Tensor]:
        """States and rewards of one rollout step.

        Args:
            step (int): Which, in [0, num_steps).
            device (torch.device): Where the agent is.

        Returns:
            tuple[list[Tensor], Tensor]: M states of shape (b, state_sizes[m]),
            float32, and rewards of shape (b, M).
        """
        self._drain(wait=True)
        rows = slice(self._offsets[step], self._offsets[step + 1])
        states = self._states[rows].to(device).float()
        return list(states.split(self.state_sizes, dim=1)), self._rewards[rows].to(device)

    def iterate(self, device: torch.device) -> Iterator[tuple[list[Tensor], Tensor]]:
        """All rollout steps in order; see :meth:`get`."""
        for step in range(self.num_steps):
            yield self.get(step, device)

    @property
    def rewards(self) -> Tensor:
        """All rewards held, shape (N, M)."""
        self._drain(wait=True)
        return self._rewards[: len(self)]

    def scale_rewards(self, factors: Tensor) -> None:
        """Multiply all rewards held.

        Args:
            factors (Tensor): One per teacher, shape (M,).
        """
        self.rewards.mul_(factors)

    def count_non_finite(self) -> tuple[Tensor, Tensor]:
        """Images with a NaN or infinite number, per teacher.

        Returns:
            tuple[Tensor, Tensor]: Of the states and of the rewards, each int64 of
            shape (M,).
        """
        states = torch.zeros(self.num_teachers, dtype=torch.long)
        rewards = torch.zeros_like(states)
        # Step by step, so that nothing as large as the buffer is made. A sum of numbers in half
        # precision overflows no float32, and is NaN where one of them is.
        self._drain(wait=True)
        for start, stop in pairwise(self._offsets):
            parts = self._states[start:stop].split(self.state_sizes, dim=1)
            sums = torch.stack([part.sum(dim=1, dtype=torch.float32) for part in parts], dim=1)
            states += sums.isfinite().logical_not().sum(dim=0)
            rewards += self._rewards[start:stop].isfinite().logical_not().sum(dim=0)
        return states, rewards

    def align_steps(self) -> list[int]:
        """Agree on the rollout steps with the other processes; called on all of them.

        A process has fewer steps if it used up its budget earlier, which happens
        where processes get different numbers of images. It gets empty ones.

        Returns:
            list[int]: Images of every step on all processes.
        """
        count = torch.tensor(self.num_steps)
        all_reduce(count, op='max')
        self._offsets += self._offsets[-1:] * (int(count) - self.num_steps)
        images = torch.tensor(self._offsets).diff()
        all_reduce(images)
        return images.tolist()

    def drop_empty_steps(self) -> None:
        """Forget the rollout steps without rows, which a resume with a smaller budget may leave.

        Only for a buffer that all processes hold alike, as the replay of
        :class:`DDPG`: of others, a step may have its rows on another process.
        """
        self._offsets = list(dict.fromkeys(self._offsets))

    def clear(self) -> None:
        """Drop all rows; the memory is kept for the next images."""
        self._drain(wait=True)
        self.seen = 0
        self._offsets = [0]

    def state_dict(self) -> dict[str, Any]:
        """State to be saved for exact resuming."""
        self._drain(wait=True)
        count = len(self)
        return dict(
            seen=self.seen,
            offsets=list(self._offsets),
            states=self._states[:count].clone(),
            rewards=self._rewards[:count].clone(),
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        With a smaller budget, evenly spaced rows are kept, and a rollout step may
        have none of them.

        Raises:
            ValueError: If it was saved with other teachers.
        """
        states = state['states'].cpu()
        if states.shape[1] != sum(self.state_sizes):
            raise ValueError(
                f'The saved rollout buffer has states of {states.shape[1]} entries, but those of '
                f'these teachers have {sum(self.state_sizes)}: resume with the same teachers.'
            )
        if len(states) > self.capacity:
            state = _thin_out(state, self.capacity)
            states = state['states'].cpu()
        self.clear()
        self._states[: len(states)] = states
        self._rewards[: len(states)] = state['rewards'].cpu()
        self.seen = state['seen']
        self._offsets = list(state['offsets'])


def _thin_out(state: dict[str, Any], capacity: int) -> dict[str, Any]:
    """Keep evenly spaced rows, where fewer processes have to hold them."""
    count = len(state['states'])
    kept = torch.div(torch.arange(capacity) * count, capacity, rounding_mode='floor')
    offsets = torch.tensor(state['offsets'])
    return dict(
        seen=state['seen'],
        offsets=torch.searchsorted(kept, offsets).tolist(),
        states=state['states'][kept],
        rewards=state['rewards'][kept],
    )


def _within_half(states: Tensor) -> Tensor:
    """Bring large numbers to the range of half precision; infinite ones stay, to be found."""
    return torch.where(states.isinf(), states, states.clamp(-_HALF_LIMIT, _HALF_LIMIT))


def redistribute(states: Sequence[dict[str, Any]], world_size: int) -> list[dict[str, Any]]:
    """Deal the buffers of some processes out to another number of them.

    The rows of a step are brought into the order of the images, of which the
    processes get every ``world_size``-th, as if they had recorded the step
    themselves.

    Args:
        states (Sequence[dict]): What :meth:`RolloutBuffer.state_dict` returned on
            each process, in their order.
        world_size (int): Number of processes from now on.

    Returns:
        list[dict]: A state for each of them.
    """
    # Rows of every step of all processes, interleaved as the images were dealt out. A process
    # that used up its budget earlier than others lacks their last steps.
    most = max(len(state['offsets']) for state in states)
    bounds = [o + o[-1:] * (most - len(o)) for o in (list(state['offsets']) for state in states)]
    steps = []
    for step in range(most - 1):
        parts = [
            [state[key][bound[step] : bound[step + 1]] for state, bound in zip(states, bounds)]
            for key in ('states', 'rewards')
        ]
        ranks = [torch.arange(len(part)).mul(len(states)).add(r) for r, part in enumerate(parts[0])]
        order = torch.cat(ranks).argsort()
        steps.append([torch.cat(part)[order] for part in parts])
    total = sum(state['seen'] for state in states)
    dealt = []
    for rank in range(world_size):
        own = [[tensor[rank::world_size] for tensor in step] for step in steps]
        offsets = [0]
        for rows, _ in own:
            offsets.append(offsets[-1] + len(rows))
        dealt.append(
            dict(
                seen=max(offsets[-1], len(range(rank, total, world_size))),
                offsets=offsets,
                states=torch.cat([rows for rows, _ in own]) if own else states[0]['states'][:0],
                rewards=torch.cat([r for _, r in own]) if own else states[0]['rewards'][:0],
            )
        )
    return dealt
