# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Distillation losses, one file each."""

from .base import DistillationLoss, FeatureLoss
from .dist import DIST
from .feature_kl import FeatureKL
from .feature_mse import FeatureMSE
from .kl_divergence import KLDivergence
from .norm_direction import NormDirection
from .standardized_kl import StandardizedKL

__all__ = [
    'DIST',
    'DistillationLoss',
    'FeatureKL',
    'FeatureLoss',
    'FeatureMSE',
    'KLDivergence',
    'NormDirection',
    'StandardizedKL',
]
