# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Selection of the student's classes from a teacher's logits."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtkdrl_mm.utils import InputError


class ClassMap(nn.Module):
    """Selects the teacher's logit of every student class.

    The teacher may have more classes than the student, or another order. The
    logits of other classes are dropped, and the softmax is over the student's
    classes.

    Args:
        indices (Sequence[int] | str): For every student class, the index of the
            teacher's class; or a text file with a line per student class that
            ends in this index (:func:`read_class_map`).
        role (str): Name of the teacher, for messages.

    Raises:
        InputError: If it is no list of integers, or contains a class twice, or
            if the file cannot be read.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.models.teachers.class_map import ClassMap
        >>> ClassMap([2, 0], 'teacher "a"')(torch.tensor([[10.0, 11.0, 12.0]]))
        tensor([[12., 10.]])
    """

    indices: Tensor

    def __init__(self, indices: Any, role: str) -> None:
        super().__init__()
        self.role = role
        if isinstance(indices, str):
            indices = read_class_map(indices, role)
        if not isinstance(indices, (list, tuple)) or not indices:
            raise InputError(
                f'The `class_map` of {role} must be a list that gives, for every student class, '
                f"the index of the teacher's class, or a file of them, but is {indices!r}."
            )
        first: dict[int, int] = {}
        for entry, index in enumerate(indices):
            if not isinstance(index, int) or isinstance(index, bool) or index < 0:
                raise InputError(
                    f'The `class_map` of {role} must hold class indices (0, 1, ...), but entry '
                    f'{entry} is {index!r}.'
                )
            if index in first:
                raise InputError(
                    f'The `class_map` of {role} contains class {index} of the teacher twice: '
                    f'entries {first[index]} and {entry}.'
                )
            first[index] = entry
        self.register_buffer('indices', torch.tensor(indices, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.indices)

    def check(self, num_teacher: int | None, num_student: int | None) -> None:
        """Check the map against the numbers of classes, if they are known.

        Args:
            num_teacher (int, optional): Number of the teacher's classes.
            num_student (int, optional): Number of the student's classes.

        Raises:
            InputError: If the length is not the student's number of classes,
                or an entry is no class of the teacher.
        """
        if num_student is not None and len(self) != num_student:
            raise InputError(
                f'The `class_map` of {self.role} has {len(self)} entries, but the student has '
                f'{num_student} classes: it must have one entry for each.'
            )
        largest, entry = self.indices.max(dim=0)
        if num_teacher is not None and largest >= num_teacher:
            raise InputError(
                f'The `class_map` of {self.role} has the class {int(largest)} in entry '
                f'{int(entry)}, but the teacher has {num_teacher} classes '
                f'(0 to {num_teacher - 1}).'
            )

    def forward(self, logits: Tensor) -> Tensor:
        """Select the logits of the student's classes.

        Args:
            logits (Tensor): The teacher's logits, shape (B, C_teacher).

        Returns:
            Tensor: Logits in the student's classes, shape (B, C).
        """
        return logits[:, self.indices]


def read_class_map(path: str, role: str) -> list[int]:
    """Read a class map from a text file.

    The file has a line for every class of the student, in their order. Its last
    word is the index of the teacher's class; what precedes it, such as the
    class's name, is for readers and :func:`check_class_names`.

    Args:
        path (str): The file.
        role (str): Name of the teacher, for messages.

    Returns:
        list[int]: For every student class, the index of the teacher's class.

    Raises:
        InputError: If the file cannot be read, is empty, or has a line that does
            not end in an index.
    """
    where = f'The `class_map` of {role}, "{path}",'
    indices = []
    for number, words in _read_lines(path, role):
        if re.fullmatch(r'[0-9]+', words[-1]) is None:
            raise InputError(
                f"{where} must end every line in the index of a teacher's class (0, 1, ...), but "
                f'line {number} ends in "{words[-1]}".'
            )
        indices.append(int(words[-1]))
    if not indices:
        raise InputError(f'{where} has no line.')
    return indices


def check_class_names(path: str, role: str, classes: Sequence[str]) -> None:
    """Make sure that a class map that names the classes of the data has them in their order.

    A file that names none, or only some of them, is not checked.

    Args:
        path (str): The file, see :func:`read_class_map`.
        role (str): Name of the teacher, for messages.
        classes (Sequence[str]): The classes of the data.

    Raises:
        InputError: If the order is another one, or the file cannot be read.
    """
    lines = [words[:-1] for _, words in _read_lines(path, role)]
    places = []
    for name in classes:
        found = [i for i, words in enumerate(lines) if name in words or name == ' '.join(words)]
        if len(found) != 1:
            return
        places.append(found[0])
    wrong = next((i for i, place in enumerate(places) if i != place), None)
    if wrong is not None:
        raise InputError(
            f'The `class_map` of {role}, "{path}", must have the classes of the data in their '
            f'order, but "{classes[wrong]}" is class {wrong} of the data and in line '
            f'{places[wrong] + 1} of the classes there.'
        )


def _read_lines(path: str, role: str) -> list[tuple[int, list[str]]]:
    """The lines of a class map with their numbers, as words; empty ones are left out."""
    where = f'The `class_map` of {role}, "{path}",'
    try:
        with open(path, encoding='utf-8-sig') as file:
            lines = [(number, line.split()) for number, line in enumerate(file, 1)]
    except OSError as error:
        raise InputError(f'{where} cannot be read: {error.strerror or error}.') from error
    except UnicodeDecodeError as error:
        raise InputError(f'{where} is no text file: {error}.') from error
    return [(number, words) for number, words in lines if words]
