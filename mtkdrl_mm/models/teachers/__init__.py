# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The pool of frozen teachers."""

from .teacher_pool import PoolSpec, TeacherPool

__all__ = ['PoolSpec', 'TeacherPool']
