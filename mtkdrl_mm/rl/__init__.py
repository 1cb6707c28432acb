# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The reinforcement learning, in plain torch: no OpenMMLab package is needed."""

from .advantage import Advantage, MinMaxAdvantage, StandardizedAdvantage
from .algorithms import DDPG, DPG, PPO, Algorithm, PolicyGradient
from .critic import Critic
from .reward import ClosenessReward, HeldOutImprovementReward, ImprovementReward, Reward
from .rollout_buffer import RolloutBuffer
from .state import TeacherState
from .state_projection import RandomProjection

__all__ = [
    'DDPG',
    'DPG',
    'PPO',
    'Advantage',
    'Algorithm',
    'ClosenessReward',
    'Critic',
    'HeldOutImprovementReward',
    'ImprovementReward',
    'MinMaxAdvantage',
    'PolicyGradient',
    'RandomProjection',
    'Reward',
    'RolloutBuffer',
    'StandardizedAdvantage',
    'TeacherState',
]
