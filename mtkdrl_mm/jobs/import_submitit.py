# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The import of submitit."""

import os
from typing import Any

from mtkdrl_mm.utils.optional_packages import import_optional

_VARIABLE = 'SUBMITIT_LOG_LEVEL'


def import_submitit(purpose: str = '--launcher') -> Any:
    """Import submitit, without the configuration that closes all log files of this process.

    Args:
        purpose (str): What needs it, for the message. Defaults to ``--launcher``.

    Returns:
        Any: The module.

    Raises:
        InputError: If submitit is not installed.
    """
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = 'NOCONFIG'
    try:
        return import_optional('submitit', purpose)
    finally:
        # The jobs write submitit's own lines, as it is configured.
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before
