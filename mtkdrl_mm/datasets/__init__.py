# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Data sets and samplers."""

from .seeded_batch_sampler import SeededBatchSampler
from .seeded_dataset import SeededDataset, SeededIndex

__all__ = ['SeededBatchSampler', 'SeededDataset', 'SeededIndex']
