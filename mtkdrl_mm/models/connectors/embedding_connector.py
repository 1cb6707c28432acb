# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Connector between embeddings."""

from torch import Tensor, nn

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import NetworkOutput, Projection
from mtkdrl_mm.structures.projection import LinearStem

from .base import Connector


@MODELS.register_module()
class EmbeddingConnector(Connector):
    """Linear layer from the student's embedding to the teacher's.

    Used where the student or the teacher has no spatial map, for instance a
    transformer that classifies from its class token.

    Args:
        in_channels (int): Size d of the student's embedding.
        out_channels (int): Size d_m of the teacher's embedding.
        scale (float): Factor of the result, where the teacher's embedding is
            given as scaled principal components, see
            :class:`mtkdrl_mm.teacher_outputs.BasisFit`. Scaling the result, and
            not the weights, leaves loss, gradients and the weights' learning rate
            as they are for the embedding in full. Defaults to 1.
        init_cfg (dict, optional): Initialisation. Defaults to None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scale: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.projection = nn.Linear(in_channels, out_channels)
        self.scale = scale

    def forward(self, student: NetworkOutput, teacher: NetworkOutput) -> Projection:
        """Project the student's embedding; both results have shape (B, d_m)."""
        projected = self.projection(student.embedding)
        stem = LinearStem(student.embedding, projected, self._mean_vjp)
        if self.scale != 1.0:
            projected = projected * self.scale
        return Projection(projected, teacher.embedding, stem)

    def _mean_vjp(self, gradient: Tensor) -> Tensor:
        """W^T g: from (d_m,) to (d,)."""
        return self.projection.weight.detach().to(gradient).T @ gradient
