# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The exception for errors in a user's input, and checks that raise it."""

import difflib
import math
import os
import os.path as osp
from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """Error in a config, a command line, a file or data of the user.

    The message names the file, key or number, and the remedy. The command-line
    tools print it without a traceback.
    """


def near_matches(name: str, known: Iterable[str]) -> str:
    """Format the known names for an error message, with similar names first.

    Args:
        name (str): The unknown name.
        known (Iterable[str]): All known names.

    Returns:
        str: For example ``Did you mean "AVER"? Known: "AVER", "MTKDRL".``
    """
    names = sorted(known)
    lowered = {n.lower(): n for n in names}
    close = [lowered[n] for n in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
    hint = 'Did you mean ' + ' or '.join(f'"{n}"' for n in close) + '? ' if close else ''
    return f'{hint}Known: ' + (', '.join(f'"{n}"' for n in names) or 'none') + '.'


def check_config_file(path: str) -> None:
    """Check that a config file exists.

    Args:
        path (str): Path of the file.

    Raises:
        InputError: If it does not. The message has files of its folder with
            similar names.
    """
    if not osp.isfile(path):
        raise InputError(f'The config file "{path}" does not exist.{similar_files(path)}')


def similar_files(path: str) -> str:
    """Format the files beside a missing one that have similar names, for an error message.

    Args:
        path (str): Path of the missing file.

    Returns:
        str: For example `` Did you mean "configs/aver/r18_imagenet.py"?``, with a
        blank in front; empty if there are none.
    """
    folder, name = osp.split(path)
    try:
        known = sorted(os.listdir(folder or '.'))
    except OSError:
        return ''
    suffix = osp.splitext(name)[1]
    known = [n for n in known if osp.splitext(n)[1] == suffix]
    close = [osp.join(folder, n) for n in difflib.get_close_matches(name, known, n=3)]
    return ' Did you mean ' + ' or '.join(f'"{p}"' for p in close) + '?' if close else ''


def check_number(
    name: str,
    value: float,
    minimum: float = 0.0,
    exclusive: bool = False,
    maximum: float | None = None,
) -> float:
    """Return ``value`` if it is a finite number in range, else raise an error.

    Args:
        name (str): The config key, for the message.
        value (float): The number to check.
        minimum (float): Smallest allowed value. Defaults to 0.
        exclusive (bool): Whether ``minimum`` itself is not allowed. Defaults to
            False.
        maximum (float, optional): Largest allowed value. Defaults to None.

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


def capitalized(text: str) -> str:
    """Return ``text`` with a capital first letter, and the others as they are."""
    return text[:1].upper() + text[1:]


def summarise(names: Sequence[str], most: int = 4) -> str:
    """Join the first names and count the rest, for messages: ``"a, b and 3 more"``."""
    shown = [name if name.isprintable() else repr(name) for name in names[:most]]
    rest = len(names) - most
    return ', '.join(shown) + (f' and {rest} more' if rest > 0 else '')


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters of it."""
    lines = [line.strip() for line in str(error).split('\n') if line.strip()]
    return lines[0][:200].rstrip('.') if lines else type(error).__name__
