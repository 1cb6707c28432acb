# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""RL algorithms, one file each."""

from .base import Algorithm, Policy
from .policy_gradient import PolicyGradient

__all__ = ['Algorithm', 'Policy', 'PolicyGradient']
