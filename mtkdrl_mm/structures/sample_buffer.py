# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A bounded store of training images."""

from typing import Any

import torch
from torch import Tensor


class SampleBuffer:
    """The latest images of some kind, within a budget.

    Kept in host memory, the images in half precision. When the budget is used
    up, the oldest image gives way.

    Args:
        budget_mib (float): Greatest size in MiB.

    Attributes:
        inputs (Tensor | None): Images of shape (N, 3, H, W), float16.
        labels (Tensor | None): Soft labels of shape (N, C), float32.
    """

    def __init__(self, budget_mib: float) -> None:
        self.budget = budget_mib * 2**20
        self.clear()

    def __len__(self) -> int:
        """Number of images held."""
        return 0 if self.inputs is None else len(self.inputs)

    def clear(self) -> None:
        """Forget everything."""
        self.inputs: Tensor | None = None
        self.labels: Tensor | None = None

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
        size = 2 * inputs[0].numel() + 4 * labels[0].numel()
        capacity = int(self.budget // size)
        if capacity < 1:
            raise ValueError(
                f'The budget of {self.budget / 2**20:g} MiB holds no image: one needs '
                f'{size / 2**20:.3f} MiB.'
            )
        inputs, labels = inputs.detach().half().cpu(), labels.detach().float().cpu()
        # Images of another size than before start the buffer anew.
        if self.inputs is not None and self.inputs.shape[1:] == inputs.shape[1:]:
            assert self.labels is not None
            inputs, labels = torch.cat([self.inputs, inputs]), torch.cat([self.labels, labels])
        self.inputs, self.labels = inputs[-capacity:].clone(), labels[-capacity:].clone()

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
        assert self.inputs is not None and self.labels is not None
        chosen = torch.randperm(len(self), generator=generator)[:count]
        return self.inputs[chosen].to(device).float(), self.labels[chosen].to(device)

    def state_dict(self) -> dict[str, Any]:
        """Everything in the buffer."""
        return dict(inputs=self.inputs, labels=self.labels)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.inputs, self.labels = state['inputs'], state['labels']
