# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Necks that mmpretrain lacks."""

from .conv_global_average_pooling import ConvGlobalAveragePooling

__all__ = ['ConvGlobalAveragePooling']
