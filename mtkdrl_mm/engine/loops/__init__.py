# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Training loops."""

from .base import schedule_steps
from .epoch_loop import ResumableEpochLoop
from .iter_loop import ResumableIterLoop

__all__ = ['ResumableEpochLoop', 'ResumableIterLoop', 'schedule_steps']
