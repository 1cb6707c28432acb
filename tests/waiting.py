# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Time limits that hold on a quiet machine and wait longer on a busy one."""

import os


def patience(seconds: float) -> float:
    """The limit in seconds, multiplied by the number of processes that share a core.

    Args:
        seconds (float): The limit on a machine with nothing else to do.
    """
    return seconds * max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
