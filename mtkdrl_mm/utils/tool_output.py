# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The end of what a tool has printed."""

import re
from collections.abc import Sequence

# Characters at the end of an output that are searched for an error, and of an error that are kept.
_TAIL, _LONGEST = 20_000, 300
_ERROR = re.compile(r'(Error|[\w.]+(Error|Exception|Interrupt)): ')


def last_lines(path: str) -> Sequence[str]:
    """Read the last lines of an output, without empty ones.

    Args:
        path (str): The file.

    Returns:
        Sequence[str]: The lines; none if there is no such file.
    """
    try:
        with open(path, 'rb') as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            text = file.read().decode(errors='replace')
    except OSError:
        return []
    # A progress bar is one line that is written again and again.
    lines = [line.rpartition('\r')[2].strip() for line in text.replace('\r\n', '\n').split('\n')]
    return [line[:_LONGEST] for line in lines if line]


def find_error(lines: Sequence[str]) -> str:
    """Find the error in the last lines of an output.

    Args:
        lines (Sequence[str]): What :func:`last_lines` returns.

    Returns:
        str: The last error, else the last line, else ''.
    """
    # Launchers write lines of their own after the error.
    errors = [line for line in lines if _ERROR.match(line)] or lines
    return errors[-1] if errors else ''
