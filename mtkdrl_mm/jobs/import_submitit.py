# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The import of submitit."""

import os
from typing import Any

_VARIABLE = 'SUBMITIT_LOG_LEVEL'


def import_submitit() -> Any:
    """Import submitit, without the configuration that closes all log files of this process.

    Returns:
        Any: The module.
    """
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = 'NOCONFIG'
    try:
        import submitit
    finally:
        # The jobs write submitit's own lines, as it is configured.
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before
    return submitit
