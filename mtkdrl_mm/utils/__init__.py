# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Helpers that belong to no single component."""

from .build import build_component, check_component
from .errors import InputError, check_flag, check_number, near_matches

__all__ = [
    'InputError',
    'build_component',
    'check_component',
    'check_flag',
    'check_number',
    'near_matches',
]
