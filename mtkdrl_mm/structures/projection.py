# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What a connector makes of the student's features."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass
class VJP:
    r"""A short way back through a connector, for the batch mean of a gradient.

    A connector that starts with a linear map A of every image's features on its
    own, u_i = A F_i + a, has

    .. math::
        \mathrm{mean}_i \frac{\partial D}{\partial F_i}
            = A^T \, \mathrm{mean}_i \frac{\partial D}{\partial u_i}

    so that the mean goes back through A, in place of the whole batch.

    Attributes:
        source (Tensor): The student's features F, shape (B, ...).
        mixed (Tensor): The tensor u between them and the projection, shape
            (B, ...), part of the graph.
        transpose (Callable): A^T: takes the mean gradient with respect to u,
            of the shape of one image of it, to the one with respect to F.
    """

    source: Tensor
    mixed: Tensor
    transpose: Callable[[Tensor], Tensor]


@dataclass
class Projection:
    """The student's features in one teacher's shape, and what to compare them with.

    Attributes:
        features (Tensor): r_m(F^S), shape (B, c_m, h_m, w_m) or (B, d_m).
        target (Tensor): F^m, of the same shape.
        vjp (VJP, optional): For connectors that start with a linear
            map. Defaults to None.
    """

    features: Tensor
    target: Tensor
    vjp: VJP | None = None
