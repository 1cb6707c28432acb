# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Training loops."""

from .resumable_loop import ResumableEpochLoop, ResumableIterLoop, schedule_steps

__all__ = ['ResumableEpochLoop', 'ResumableIterLoop', 'schedule_steps']
