# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The principal components of a teacher's embeddings and maps."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class BasisFit:
    r"""Fits the principal components of a teacher's features, over images and positions.

    Of a map F with c channels, z is stored, and the map that is read is F':

    .. math::
        z = U (F - \mu), \qquad F' = U^T z + \mu

    with the k leading components in the rows of U. Of all maps that k numbers
    per position determine linearly, F' is on average nearest to F. Where F comes
    from a ReLU, negative entries of F' are replaced by zero, which is nearer
    still.

    Of an embedding F, what is stored and compared is

    .. math::
        e = \sqrt{k / c} \, U (F - \mu)

    since a linear connector A h + b loses nothing by it: the mean square error
    to F over the c entries is that of sqrt(k / c) U (A h + b - mu) to e over the
    k entries, plus a part outside the components that the connector makes as
    small as what the components leave out. :class:`EmbeddingConnector` therefore
    scales what its k rows yield by the same factor. Losses and gradients are
    those of a connector with c rows.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.teacher_outputs import BasisFit
        >>> fit = BasisFit()
        >>> fit.update(torch.rand(8, 16, 4, 4))
        >>> fit.basis(channels=3)['components'].shape
        (3, 16)
        >>> fit = BasisFit()
        >>> fit.update(torch.rand(8, 16))
        >>> fit.basis(channels=3)['components'].shape
        (3, 16)
    """

    def __init__(self) -> None:
        self._count = 0
        self._shift: Tensor | None = None
        self._sum: Tensor | None = None
        self._products: Tensor | None = None

    def update(self, features: Tensor) -> None:
        """Add the features of some images.

        Args:
            features (Tensor): Maps of shape (B, c, h, w), or embeddings (B, c).
        """
        rows = features.detach().float().movedim(1, -1).flatten(0, -2)
        if self._shift is None:
            # Some channels of transformers have means a hundred times their deviation, whose
            # squares would leave no digits for it.
            self._shift = rows.mean(dim=0)
        rows = rows - self._shift
        self._count += len(rows)
        # Of a batch in float32, over the batches in float64.
        total, products = rows.sum(dim=0).double(), (rows.T @ rows).double()
        self._sum = total if self._sum is None else self._sum + total
        self._products = products if self._products is None else self._products + products

    def basis(self, channels: int) -> dict[str, np.ndarray]:
        """Compute the basis.

        Args:
            channels (int): k.

        Returns:
            dict[str, np.ndarray]: ``components`` U (k, c), ``mean`` mu (c,),
            float32, and ``explained``, the share of the variance, of shape ().
        """
        assert self._shift is not None and self._sum is not None and self._products is not None
        mean = self._sum.div(self._count)
        covariance = self._products.div(self._count) - torch.outer(mean, mean)
        mean = mean + self._shift.double()
        values, vectors = torch.linalg.eigh(covariance)
        components = vectors.T.flip(0)[:channels]
        # An eigenvector has no sign of its own.
        largest = components.abs().argmax(dim=1, keepdim=True)
        components = components * components.gather(1, largest).sign()
        kept = values.flip(0)[:channels].sum().div(values.sum().clamp(min=1e-12))
        return dict(
            components=components.float().cpu().numpy(),
            mean=mean.float().cpu().numpy(),
            explained=kept.float().cpu().numpy(),
        )


def basis_key(kind: str) -> str:
    """What the names of the arrays of a basis start with, of 'embeddings' or 'maps'."""
    return dict(embeddings='embedding_', maps='')[kind]


def name_basis(kind: str, basis: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name the arrays of a basis as they stand in a teacher's file.

    Args:
        kind (str): 'embeddings' or 'maps', of which it is the basis.
        basis (Mapping[str, np.ndarray]): From :meth:`BasisFit.basis`.
    """
    return {f'{basis_key(kind)}{key}': array for key, array in basis.items()}
