# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Trainings that continue on a full disk: errors of log file and hooks are reported once."""

import logging
import sys
from collections.abc import Callable
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import MMLogger

from mtkdrl_mm.utils.files import MEDIUM_ERRORS, describe_medium_error


def report_write_error_once(handler: logging.FileHandler) -> None:
    """Let a log file that cannot be written cost one sentence on the console.

    Python's logging prints a traceback for every line.

    Args:
        handler (FileHandler): Its ``handleError`` is replaced.
    """
    default = handler.handleError
    reported: list[OSError] = []

    def handle_error(record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError) or error.errno not in MEDIUM_ERRORS:
            default(record)
        elif not reported:
            reported.append(error)
            problem = describe_medium_error(error, handler.baseFilename)
            print(f'The log file {problem}. Training continues.', file=sys.stderr)

    handler.handleError = handle_error  # type: ignore[method-assign]


class WriteErrorGuard:
    """Calls hooks, and turns their first write error each into a line of the log.

    Args:
        logger (MMLogger): Where the errors are logged.
        work_dir (str): Folder for the message, if the error names no file.
    """

    def __init__(self, logger: MMLogger, work_dir: str) -> None:
        self.logger = logger
        self.work_dir = work_dir
        self._reported: set[str] = set()

    def call(self, hook: Hook, method: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call a method of a hook.

        Args:
            hook (Hook): The hook.
            method (Callable): Its method.
            *args: Arguments of the method.
            **kwargs: Keyword arguments of the method.

        Raises:
            OSError: If it is no error of the storage medium.
        """
        try:
            method(*args, **kwargs)
        except OSError as error:
            if error.errno not in MEDIUM_ERRORS:
                raise
            self._report(type(hook).__name__, error)

    def _report(self, name: str, error: OSError) -> None:
        if name in self._reported:
            return
        self._reported.add(name)
        problem = describe_medium_error(error, str(error.filename or self.work_dir))
        self.logger.error(
            f'{name}: {problem}. Training continues; the output of this hook is missing until '
            'there is space.'
        )
