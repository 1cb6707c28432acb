# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The exception for errors in a user's input, and checks that raise it."""

import difflib
import math
import os
import os.path as osp
from collections.abc import Iterable, Sequence
from traceback import walk_tb


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


def check_flag(name: str, value: bool) -> bool:
    """Return ``value`` if it is True or False, else raise an error.

    Args:
        name (str): The config key, for the message.
        value (bool): What to check. Any text would count as True.

    Returns:
        bool: ``value``, unchanged.

    Raises:
        InputError: If it is something else.
    """
    if not isinstance(value, bool):
        raise InputError(f'`{name}` must be True or False, but is {value!r}.')
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


def config_failure(error: Exception) -> str:
    """Describe why a config file could not be read, for an error message.

    Args:
        error (Exception): What ``Config.fromfile`` has raised.

    Returns:
        str: mmengine's own words; of an error in the code of a config, or of a module that it
        imports, its type and message, and the file and line.
    """
    frames = list(walk_tb(error.__traceback__))
    files = [frame.f_code.co_filename for frame, _ in frames]
    readers = [i for i, (frame, _) in enumerate(frames) if frame.f_code.co_name in _READERS]
    if isinstance(error, SyntaxError) and readers:
        # mmengine parses a text, and the error does not know of which file.
        file = frames[readers[-1]][0].f_locals.get('filename', error.filename)
        return f'{error.msg} ({file}, line {error.lineno})'
    if not readers or files[-1] == files[readers[-1]]:
        message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        return message.rstrip('.') if ' ' in message else f'{type(error).__name__}: {error}'
    found: Sequence[int] = range(readers[-1] + 1, len(files))
    if frames[readers[-1]][0].f_code.co_name != 'fromfile':
        # What a config calls may be deep in a library: the config's own line is the one to mend.
        found = [i for i in found if files[i] == files[found[0]]]
    message = f': {first_line(error)}' if str(error) else ''
    return f'{type(error).__name__}{message} ({files[found[-1]]}, line {frames[found[-1]][1]})'


# mmengine's functions that run the code of a config; `fromfile` imports its `custom_imports`.
_READERS = ('fromfile', '_file2dict', '_is_lazy_import', '_parse_lazy_import')
