# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Samplers."""

from .seeded_batches import SeededBatchSampler, seed_batches

__all__ = ['SeededBatchSampler', 'seed_batches']
