# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Measurement of training steps, for the benchmark tools."""

from .batch_feed import BatchFeed
from .measures import Measure, measures_table
from .memory import PeakMemory, measure_memory, peak_memory, print_memory
from .rounds import Variant, median_ratio, time_loading, time_rounds
from .steps import StepSettings, distillation, lower_bound, plain_training, random_batch
from .stored_teachers import fill_store, use_random_teachers, with_equal_weights, with_store
from .training_data import count_classes, use_images, write_images

__all__ = [
    'BatchFeed',
    'Measure',
    'PeakMemory',
    'StepSettings',
    'Variant',
    'count_classes',
    'distillation',
    'fill_store',
    'lower_bound',
    'measure_memory',
    'measures_table',
    'median_ratio',
    'peak_memory',
    'plain_training',
    'print_memory',
    'random_batch',
    'time_loading',
    'time_rounds',
    'use_images',
    'use_random_teachers',
    'with_equal_weights',
    'with_store',
    'write_images',
]
