# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A fixed random projection that keeps states small."""

from functools import cache

import torch
from torch import Tensor


class RandomProjection:
    r"""Multiplies by a Gaussian matrix drawn once from a seed.

    Entries have the variance 1/k, so that inner products and distances are
    kept on average, with a relative error of about :math:`\sqrt{2/k}`
    (Johnson and Lindenstrauss). The matrix depends on seed and sizes only:
    inputs of one size get the same one, whosever they are, and nothing has to
    be saved.

    Args:
        size (int): k, length of what comes out; shorter inputs are left alone.
        seed (int): Seed. Defaults to 0.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.seed = seed

    def __call__(self, inputs: Tensor) -> Tensor:
        """Project.

        Args:
            inputs (Tensor): Shape (B, d).

        Returns:
            Tensor: Shape (B, min(d, k)).
        """
        size = inputs.shape[1]
        if size <= self.size:
            return inputs
        return inputs @ _matrix(size, self.size, self.seed, inputs.dtype, inputs.device)


@cache
def _matrix(rows: int, columns: int, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(1_000_003 * seed + rows)
    matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return (matrix / columns**0.5).to(device, dtype)
