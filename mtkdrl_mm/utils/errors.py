# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""One kind of exception for everything the user can mend."""

import difflib
import math
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user wrote or supplied is wrong.

    The message names the file, key or number at fault and says what to do. The
    command-line tools print it without a traceback.
    """


def near_matches(name: str, known: Iterable[str]) -> str:
    """Phrase the known names for an error message, the likely ones first.

    Args:
        name (str): The name that was not found.
        known (Iterable[str]): All names that would have been right.

    Returns:
        str: For example ``Did you mean "AVER"? Known: "AVER", "MTKDRL".``
    """
    names = sorted(known)
    lowered = {n.lower(): n for n in names}
    close = [lowered[n] for n in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
    hint = 'Did you mean ' + ' or '.join(f'"{n}"' for n in close) + '? ' if close else ''
    return f'{hint}Known: ' + (', '.join(f'"{n}"' for n in names) or 'none') + '.'


def check_number(
    name: str,
    value: float,
    minimum: float = 0.0,
    exclusive: bool = False,
    maximum: float | None = None,
) -> float:
    """Return ``value`` if it is a finite number in range, else say what is wrong.

    Args:
        name (str): The config key, for the message.
        value (float): The number to check.
        minimum (float): Least allowed value. Defaults to 0.
        exclusive (bool): Whether ``minimum`` itself is refused. Defaults to False.
        maximum (float, optional): Greatest allowed value. Defaults to None.

    Returns:
        float: ``value``, unchanged.

    Raises:
        InputError: If it is no number, not finite, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f'`{name}` must be a finite number, but is {value!r}.')
    low = value <= minimum if exclusive else value < minimum
    if low or (maximum is not None and value > maximum):
        allowed = f'{"greater than" if exclusive else "at least"} {minimum:g}'
        if maximum is not None:
            allowed += f' and at most {maximum:g}'
        raise InputError(f'`{name}` must be {allowed}, but is {value!r}.')
    return value
