# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A teacher whose classes are others, or in another order, than the student's."""

from typing import Any

import torch
from torch import Tensor, nn

from mtkdrl_mm.utils import InputError


class ClassMap(nn.Module):
    """Picks, for every student class, the teacher's logit of that class.

    The teacher may have more classes than the student: what it says of the
    others is left out, and its softmax is over the student's classes.

    Args:
        indices (Sequence[int]): For every student class, the index of the
            teacher's class.
        role (str): Whose it is, for messages.

    Raises:
        InputError: If it is no list of integers, or names a class twice.
    """

    indices: Tensor

    def __init__(self, indices: Any, role: str) -> None:
        super().__init__()
        self.role = role
        if not isinstance(indices, (list, tuple)) or not indices:
            raise InputError(
                f'The `class_map` of {role} must be a list that gives, for every student class, '
                f"the index of the teacher's class, but is {indices!r}."
            )
        first: dict[int, int] = {}
        for place, index in enumerate(indices):
            if not isinstance(index, int) or isinstance(index, bool) or index < 0:
                raise InputError(
                    f'The `class_map` of {role} must hold class indices (0, 1, ...), but entry '
                    f'{place} is {index!r}.'
                )
            if index in first:
                raise InputError(
                    f'The `class_map` of {role} names class {index} of the teacher twice: '
                    f'entries {first[index]} and {place}.'
                )
            first[index] = place
        self.register_buffer('indices', torch.tensor(indices, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.indices)

    def check(self, num_teacher: int | None, num_student: int | None) -> None:
        """Compare with the numbers of classes, where they are known.

        Args:
            num_teacher (int, optional): Classes that the teacher answers with.
            num_student (int, optional): Classes of the student.

        Raises:
            InputError: If the length is not the student's number of classes,
                or an entry is no class of the teacher.
        """
        if num_student is not None and len(self) != num_student:
            raise InputError(
                f'The `class_map` of {self.role} has {len(self)} entries, but the student has '
                f'{num_student} classes: give one entry for each.'
            )
        largest, place = self.indices.max(dim=0)
        if num_teacher is not None and largest >= num_teacher:
            raise InputError(
                f'The `class_map` of {self.role} has the class {int(largest)} in entry '
                f'{int(place)}, but the teacher has {num_teacher} classes '
                f'(0 to {num_teacher - 1}).'
            )

    def forward(self, logits: Tensor) -> Tensor:
        """Gather.

        Args:
            logits (Tensor): The teacher's, shape (B, C_teacher).

        Returns:
            Tensor: Shape (B, C).
        """
        return logits[:, self.indices]
