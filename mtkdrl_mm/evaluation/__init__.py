# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Statistics of teachers' predictions: accuracy, calibration, agreement, preprocessing.

The functions take logits and labels; none of them runs a network.
"""

from .agreement import Agreement, agreement
from .calibration import (
    ReliabilityBins,
    calibrated_log_likelihood,
    expected_calibration_error,
    fitted_temperature,
    log_likelihood,
    reliability_bins,
)
from .class_order import ClassOrder, class_order
from .paired_tests import mcnemar, paired_gain
from .prediction_counts import PredictionCounts
from .preprocessing_check import (
    Alternative,
    alternatives,
    best_alternative,
    confirm_alternative,
)

__all__ = [
    'Agreement',
    'Alternative',
    'ClassOrder',
    'PredictionCounts',
    'ReliabilityBins',
    'agreement',
    'alternatives',
    'best_alternative',
    'calibrated_log_likelihood',
    'class_order',
    'confirm_alternative',
    'expected_calibration_error',
    'fitted_temperature',
    'log_likelihood',
    'mcnemar',
    'paired_gain',
    'reliability_bins',
]
