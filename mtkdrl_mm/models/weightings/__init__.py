# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Weighting strategies, one file each."""

from .aekd import AEKD
from .aver import AVER
from .base import Weighting
from .camkd import CAMKD
from .ebkd import EBKD
from .mmkd import MMKD
from .mtkdrl import MTKDRL

__all__ = ['AEKD', 'AVER', 'CAMKD', 'EBKD', 'MMKD', 'MTKDRL', 'Weighting']
