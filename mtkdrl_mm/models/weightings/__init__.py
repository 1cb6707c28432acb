# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Weighting strategies, one file each."""

from .aekd import AEKD
from .aver import AVER
from .base import Weighting
from .camkd import CAMKD
from .correct_teachers import CorrectTeachers
from .ebkd import EBKD
from .mmkd import MMKD
from .mtkdrl import MTKDRL
from .static_weights import StaticWeights
from .teacher_dropping import TeacherDropping

__all__ = [
    'AEKD',
    'AVER',
    'CAMKD',
    'EBKD',
    'MMKD',
    'MTKDRL',
    'CorrectTeachers',
    'StaticWeights',
    'TeacherDropping',
    'Weighting',
]
