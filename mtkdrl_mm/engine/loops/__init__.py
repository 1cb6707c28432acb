# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Training loops."""

from .resumable_loop import ResumableEpochLoop

__all__ = ['ResumableEpochLoop']
