# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The distiller."""

from .multi_teacher_distiller import MultiTeacherDistiller

__all__ = ['MultiTeacherDistiller']
