# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The student's features in a teacher's shape."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass
class LinearStem:
    r"""The linear map that a connector starts with, u_i = A F_i + a.

    It gives a cheap vector-Jacobian product for batch means of gradients,

    .. math::
        \mathrm{mean}_i \frac{\partial D}{\partial F_i}
            = A^T \, \mathrm{mean}_i \frac{\partial D}{\partial u_i}

    so that one image's worth of gradient goes back through A, in place of the
    whole batch.

    Attributes:
        source (Tensor): The student's features F, shape (B, ...).
        output (Tensor): u, part of the graph, shape (B, ...).
        mean_vjp (Callable): A^T: takes the mean gradient with respect to u, of
            the shape of one image of it, to the one with respect to F.
    """

    source: Tensor
    output: Tensor
    mean_vjp: Callable[[Tensor], Tensor]


@dataclass
class Projection:
    """The student's features in one teacher's shape, and the teacher's features.

    Attributes:
        features (Tensor): r_m(F^S), shape (B, c_m, h_m, w_m) or (B, d_m).
        target (Tensor): F^m, of the same shape.
        stem (LinearStem, optional): The linear map that the connector starts
            with. Defaults to None: it starts with none, or does not tell.
    """

    features: Tensor
    target: Tensor
    stem: LinearStem | None = None
