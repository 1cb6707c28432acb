# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Backbones that mmpretrain lacks: those of the CIFAR-100 experiments, and timm's."""

from .cifar_mobilenet_v2 import CIFARMobileNetV2
from .cifar_regnet import CIFARRegNet
from .cifar_resnet import CIFARResNet
from .cifar_shufflenet_v2 import CIFARShuffleNetV2
from .cifar_wide_resnet import CIFARWideResNet
from .timm_features import TimmFeatures

__all__ = [
    'CIFARMobileNetV2',
    'CIFARRegNet',
    'CIFARResNet',
    'CIFARShuffleNetV2',
    'CIFARWideResNet',
    'TimmFeatures',
]
