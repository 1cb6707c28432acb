# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The reinforcement learning, in plain torch: no OpenMMLab package is needed."""

from .advantage import Advantage, MinMaxAdvantage, StandardizedAdvantage
from .algorithms import Algorithm, PolicyGradient
from .history import History
from .reward import ClosenessReward, ImprovementReward, Reward
from .state import TeacherState

__all__ = [
    'Advantage',
    'Algorithm',
    'ClosenessReward',
    'History',
    'ImprovementReward',
    'MinMaxAdvantage',
    'PolicyGradient',
    'Reward',
    'StandardizedAdvantage',
    'TeacherState',
]
