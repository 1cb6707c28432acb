# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the agent sees of a teacher."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtkdrl_mm.structures import StepTerms
from mtkdrl_mm.structures.step_terms import at_least_float32


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

    Raises:
        ValueError: If both parts are left out.
    """

    def __init__(self, performance: bool = True, gap: bool = True) -> None:
        if not (performance or gap):
            raise ValueError('`performance` and `gap` are both False: the state would be empty.')
        self.performance = performance
        self.gap = gap

    def sizes(self, embedding_sizes: Sequence[int], num_classes: int) -> list[int]:
        """Length of every teacher's state: d_m + C + 3 with both parts.

        Args:
            embedding_sizes (Sequence[int]): d_m of the M teachers.
            num_classes (int): C.

        Returns:
            list[int]: M lengths.
        """
        performance = [size + num_classes + 1 for size in embedding_sizes]
        return [size * self.performance + 2 * self.gap for size in performance]

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
                parts.append(at_least_float32(teacher.embedding))
                parts.append(terms.teacher_logits[:, m])
                parts.append(terms.teacher_ce[:, m, None])
            if self.gap:
                parts.append(terms.feature_cosine[:, m, None])
                parts.append(terms.logit_loss[:, m, None])
            states.append(torch.cat(parts, dim=1).detach())
        return states
