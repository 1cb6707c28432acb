# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""RL algorithms, one file each."""

from .base import Algorithm, LogProbs
from .ddpg import DDPG
from .dpg import DPG
from .mixture_likelihood import MixtureLikelihood
from .policy_gradient import PolicyGradient
from .ppo import PPO
from .weighted_bce import WeightedBCE

__all__ = [
    'DDPG',
    'DPG',
    'PPO',
    'Algorithm',
    'LogProbs',
    'MixtureLikelihood',
    'PolicyGradient',
    'WeightedBCE',
]
