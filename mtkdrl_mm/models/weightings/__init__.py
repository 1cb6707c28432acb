# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Weighting strategies, one file each."""

from .aver import AVER
from .base import Weighting
from .mtkdrl import MTKDRL

__all__ = ['AVER', 'MTKDRL', 'Weighting']
