# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The frozen teachers."""

from .inference_mode import InferenceMode, InferenceSettings
from .preprocessing import Preprocessing
from .stored_pool import StoredTeacherPool
from .teacher import Teacher
from .teacher_pool import PoolSpec, TeacherPool, build_pool

__all__ = [
    'InferenceMode',
    'InferenceSettings',
    'PoolSpec',
    'Preprocessing',
    'StoredTeacherPool',
    'Teacher',
    'TeacherPool',
    'build_pool',
]
