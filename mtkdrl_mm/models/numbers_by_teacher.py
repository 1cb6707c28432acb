# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Numbers that a config gives by the names of teachers."""

from collections.abc import Mapping, Sequence

from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.errors import near_matches


def numbers_by_teacher(
    key: str,
    numbers: Mapping[str, float],
    names: Sequence[str],
    default: float,
    exclusive: bool = False,
) -> list[float]:
    """Bring such numbers into the order of the pool.

    Args:
        key (str): The config key, for messages.
        numbers (Mapping[str, float]): By the teachers' names.
        names (Sequence[str]): The names of the pool.
        default (float): For teachers that are not named.
        exclusive (bool): Whether 0 is not allowed. Defaults to False.

    Returns:
        list[float]: One number of at least 0 per teacher.

    Raises:
        InputError: If they are not given by name, a name is not in the pool, or
            a number is out of range.
    """
    if not isinstance(numbers, Mapping):
        raise InputError(
            f'`{key}` must give numbers by the names of teachers, for example '
            f'dict({names[0] if names else "resnet50"}=1.0), but is {numbers!r}.'
        )
    for name, value in numbers.items():
        if name not in names:
            raise InputError(
                f'`{key}` names the teacher "{name}", which is not in the pool. '
                f'{near_matches(name, names)}'
            )
        check_number(f'{key}["{name}"]', value, exclusive=exclusive)
    return [float(numbers.get(name, default)) for name in names]
