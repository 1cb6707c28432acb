# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Comparison of methods over seeds: trainings, results, tables and plots.

The plots are in :mod:`mtkdrl_mm.comparison.plots`, which alone needs matplotlib.
"""

from .environment import command_line, describe_device, join_known, write_environment
from .record import PAGE_NAME, ComparisonRecord, Missing, Plan, is_comparison, read_comparison
from .results import Run, Runs, TrainingLog
from .rows import Combination, Row, describe, list_combinations, list_rows, outer_variables
from .settings import ComparisonSettings
from .stores import Store, add_stored, fill_stores, plan_stores
from .summary import Difference, MethodSummary, summarize
from .tables import write_tables
from .training import finished, train, train_all

__all__ = [
    'PAGE_NAME',
    'Combination',
    'ComparisonRecord',
    'ComparisonSettings',
    'Difference',
    'MethodSummary',
    'Missing',
    'Plan',
    'Row',
    'Run',
    'Runs',
    'Store',
    'TrainingLog',
    'add_stored',
    'command_line',
    'describe',
    'describe_device',
    'fill_stores',
    'finished',
    'is_comparison',
    'join_known',
    'list_combinations',
    'list_rows',
    'outer_variables',
    'plan_stores',
    'read_comparison',
    'summarize',
    'train',
    'train_all',
    'write_environment',
    'write_tables',
]
