# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The frozen teachers."""

from .preprocessing import Preprocessing
from .teacher import Teacher
from .teacher_pool import PoolSpec, TeacherPool, build_pool

__all__ = ['PoolSpec', 'Preprocessing', 'Teacher', 'TeacherPool', 'build_pool']
