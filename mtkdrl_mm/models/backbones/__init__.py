# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Backbones that mmpretrain lacks."""

from .timm_features import TimmFeatures

__all__ = ['TimmFeatures']
