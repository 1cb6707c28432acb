# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A bounded store of training images."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class HardExampleBuffer:
    """The latest images of some kind, within a budget.

    Kept in host memory, the images in half precision. When the budget is used
    up, the oldest image gives way.

    Args:
        budget_mib (float): Greatest size in MiB.
    """

    def __init__(self, budget_mib: float) -> None:
        self.budget = budget_mib * 2**20
        # Image by image, so that adding a few does not copy all the others.
        self._images: deque[tuple[Tensor, Tensor]] = deque()

    def __len__(self) -> int:
        """Number of images held."""
        return len(self._images)

    @property
    def inputs(self) -> Tensor | None:
        """A copy of the images, shape (N, 3, H, W), float16; None if there are none."""
        return torch.stack([image for image, _ in self._images]) if self._images else None

    @property
    def labels(self) -> Tensor | None:
        """A copy of the soft labels, shape (N, C), float32; None if there are none."""
        return torch.stack([label for _, label in self._images]) if self._images else None

    def clear(self) -> None:
        """Forget everything."""
        self._images.clear()

    def add(self, inputs: Tensor, labels: Tensor) -> None:
        """Add images.

        Args:
            inputs (Tensor): Preprocessed images of shape (n, 3, H, W).
            labels (Tensor): Soft labels of shape (n, C).

        Raises:
            ValueError: If the budget does not hold a single image.
        """
        if len(inputs) == 0:
            return
        capacity = self._capacity(inputs, labels)
        inputs, labels = inputs.detach().half().cpu(), labels.detach().float().cpu()
        # Images of another size than before start the buffer anew.
        if self._images and self._images[0][0].shape != inputs.shape[1:]:
            self.clear()
        self._append(inputs[-capacity:], labels[-capacity:])
        while len(self._images) > capacity:
            self._images.popleft()

    def draw(
        self, count: int, generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Draw different images at random.

        Args:
            count (int): How many; all, if there are fewer.
            generator (torch.Generator): Decides which.
            device (torch.device): Where they are needed.

        Returns:
            tuple[Tensor, Tensor]: Images (n, 3, H, W) and soft labels (n, C),
            float32.
        """
        chosen = torch.randperm(len(self), generator=generator)[:count].tolist()
        inputs = torch.stack([self._images[index][0] for index in chosen])
        labels = torch.stack([self._images[index][1] for index in chosen])
        return inputs.to(device).float(), labels.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Everything in the buffer."""
        return dict(inputs=self.inputs, labels=self.labels)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.clear()
        if state['inputs'] is not None:
            capacity = self._capacity(state['inputs'], state['labels'])
            self._append(state['inputs'][-capacity:].cpu(), state['labels'][-capacity:].cpu())

    def _capacity(self, inputs: Tensor, labels: Tensor) -> int:
        size = 2 * inputs[0].numel() + 4 * labels[0].numel()
        capacity = int(self.budget // size)
        if capacity < 1:
            raise ValueError(
                f'The budget of {self.budget / 2**20:g} MiB holds no image: one needs '
                f'{size / 2**20:.3f} MiB.'
            )
        return capacity

    def _append(self, inputs: Tensor, labels: Tensor) -> None:
        # Clones, since a view would keep its whole batch alive.
        self._images.extend((i.clone(), label.clone()) for i, label in zip(inputs, labels))


def redistribute(states: Sequence[dict[str, Any]], world_size: int) -> list[dict[str, Any]]:
    """Deal the images of some processes out to another number of them.

    Args:
        states (Sequence[dict]): What :meth:`HardExampleBuffer.state_dict` returned
            on each process.
        world_size (int): Number of processes from now on.

    Returns:
        list[dict]: A state for each of them.
    """
    filled = [state for state in states if state['inputs'] is not None]
    if not filled:
        return [dict(inputs=None, labels=None) for _ in range(world_size)]
    inputs = torch.cat([state['inputs'] for state in filled])
    labels = torch.cat([state['labels'] for state in filled])
    dealt = [(inputs[r::world_size], labels[r::world_size]) for r in range(world_size)]
    return [dict(inputs=i if len(i) else None, labels=la if len(i) else None) for i, la in dealt]
