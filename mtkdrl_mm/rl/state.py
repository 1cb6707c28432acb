# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the agent sees of a teacher."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtkdrl_mm.structures import StepTerms
from mtkdrl_mm.structures.step_terms import at_least_float32

from .state_projection import RandomProjection


class TeacherState:
    r"""State of every teacher on every image.

    .. math::
        s_i^m = [ f^m \mid z^m \mid H(y, z^m) \mid \cos(r_m(F^S), f^m) \mid KL^m ]

    The first three are the teacher's performance, the last two the gap between
    it and the student. Source: arXiv:2502.18510, section "State".

    Args:
        performance (bool): Whether the performance part is in the state.
            Defaults to True.
        gap (bool): Whether the gap part is in the state. Defaults to True.
        projection_size (int, optional): Length k that embedding and logits are
            brought to where they are longer, by a fixed random projection.
            Defaults to None: they stay as they are.
        projection_seed (int): Seed of the projection. Defaults to 0.

    Raises:
        ValueError: If both parts are left out, or there is nothing to project.
    """

    def __init__(
        self,
        performance: bool = True,
        gap: bool = True,
        projection_size: int | None = None,
        projection_seed: int = 0,
    ) -> None:
        if not (performance or gap):
            raise ValueError('`performance` and `gap` are both False: the state would be empty.')
        self.performance = performance
        self.gap = gap
        self.projection: RandomProjection | None = None
        if projection_size is not None:
            if not isinstance(projection_size, int) or projection_size < 1:
                raise ValueError(
                    f'`projection_size` must be a positive integer, but is {projection_size!r}.'
                )
            if not performance:
                raise ValueError('without `performance` there is nothing to project.')
            self.projection = RandomProjection(projection_size, projection_seed)

    def part_sizes(self, embedding_size: int, num_classes: int) -> tuple[int, int]:
        """Lengths of a teacher's embedding and logits in its state."""
        if not self.performance:
            return 0, 0
        if self.projection is None:
            return embedding_size, num_classes
        return self.projection.size_of(embedding_size), self.projection.size_of(num_classes)

    def sizes(self, embedding_sizes: Sequence[int], num_classes: int) -> list[int]:
        """Length of every teacher's state: d_m + C + 3 with both parts, unless projected.

        Args:
            embedding_sizes (Sequence[int]): d_m of the M teachers.
            num_classes (int): C.

        Returns:
            list[int]: M lengths.
        """
        parts = [self.part_sizes(size, num_classes) for size in embedding_sizes]
        return [sum(part) + self.performance + 2 * self.gap for part in parts]

    @torch.no_grad()
    def __call__(self, terms: StepTerms) -> list[Tensor]:
        """Read the states from the step's record.

        Args:
            terms (StepTerms): The record for B images and M teachers.

        Returns:
            list[Tensor]: M detached tensors of shape (B, d_m + C + 3), float32.
        """
        states = []
        for m, teacher in enumerate(terms.teachers):
            parts: list[Tensor] = []
            if self.performance:
                embedding, logits = at_least_float32(teacher.embedding), terms.teacher_logits[:, m]
                if self.projection is not None:
                    embedding, logits = self.projection(embedding), self.projection(logits)
                parts += [embedding, logits]
                parts.append(terms.teacher_ce[:, m, None])
            if self.gap:
                parts.append(terms.feature_cosine[:, m, None])
                parts.append(terms.logit_loss[:, m, None])
            states.append(torch.cat(parts, dim=1).detach())
        return states
