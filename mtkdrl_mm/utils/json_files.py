# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Reading of JSON files of trainings, which may be damaged."""

import json
from collections.abc import Mapping
from typing import Any

from .errors import InputError


def read_json_object(path: str, keys: Mapping[str, type | tuple[type, ...]] | None = None) -> dict:
    """Read a JSON file that contains one object.

    Args:
        path (str): The file.
        keys (Mapping[str, type], optional): Required keys, and the types of
            their values. Defaults to None.

    Returns:
        dict: The object.

    Raises:
        InputError: If the file cannot be read, or has other contents.
    """
    try:
        with open(path, encoding='utf-8') as file:
            contents = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(contents, dict):
        raise _damaged(path, f'it holds a {type(contents).__name__}, not an object')
    for key, kinds in (keys or {}).items():
        if not isinstance(contents.get(key), kinds) or isinstance(contents.get(key), bool):
            raise _damaged(path, f'its "{key}" is {str(contents.get(key))[:40]!r}')
    return contents


def read_json_lines(path: str) -> list[dict[str, Any]]:
    """Read a log with one JSON object per line.

    An incomplete last line, as in the log of a killed training, is left out.

    Args:
        path (str): The file.

    Returns:
        list[dict]: The objects.

    Raises:
        InputError: If another line is damaged.
    """
    try:
        with open(path, encoding='utf-8') as file:
            lines = [line for line in file if line.strip()]
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines) and not line.endswith('\n'):
                break
            raise _damaged(path, f'line {number}: {error}') from error
        if not isinstance(record, dict):
            raise _damaged(path, f'line {number} holds a {type(record).__name__}, not an object')
        records.append(record)
    return records


def _damaged(path: str, reason: str) -> InputError:
    return InputError(
        f'"{path}" is damaged: {reason}. Remove it, and repeat the run that wrote it.'
    )
