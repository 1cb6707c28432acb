# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Comparison of methods over seeds: trainings, results, tables and plots.

The plots are in :mod:`mtkdrl_mm.comparison.plots`, which alone needs matplotlib.
"""

from .environment import write_environment
from .results import Run, Runs, TrainingLog
from .rows import Combination, Row, describe, list_rows
from .settings import ComparisonSettings
from .stores import Store, fill_stores, plan_stores
from .summary import Difference, MethodSummary, summarize
from .tables import write_tables
from .training import finished, train, train_all

__all__ = [
    'Combination',
    'ComparisonSettings',
    'Difference',
    'MethodSummary',
    'Row',
    'Run',
    'Runs',
    'Store',
    'TrainingLog',
    'describe',
    'fill_stores',
    'finished',
    'list_rows',
    'plan_stores',
    'summarize',
    'train',
    'train_all',
    'write_environment',
    'write_tables',
]
