# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Distillation losses, one file each."""

from .base import DistillationLoss
from .feature_mse import FeatureMSE
from .kl_divergence import KLDivergence

__all__ = ['DistillationLoss', 'FeatureMSE', 'KLDivergence']
