# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Reinforcement learning of the teacher weights: state, reward, buffer, algorithms, trainer."""

from .advantage import Advantage, BatchZScoreAdvantage, MinMaxAdvantage, StandardizedAdvantage
from .agent_trainer import AgentTrainer
from .algorithms import DDPG, DPG, PPO, Algorithm, MixtureLikelihood, PolicyGradient, WeightedBCE
from .critic import Critic
from .embedding_probes import EmbeddingProbes
from .linear_probe import probe_log_probs, probe_scores
from .memorised_share import MemorisedShare
from .reward import ClosenessReward, LabelProbabilityReward, Reward, StudentLossReward
from .rollout_buffer import RolloutBuffer
from .state import StateLayout, TeacherState
from .state_projection import RandomProjection
from .static_weights import best_static_weights

__all__ = [
    'DDPG',
    'DPG',
    'PPO',
    'Advantage',
    'AgentTrainer',
    'Algorithm',
    'BatchZScoreAdvantage',
    'ClosenessReward',
    'Critic',
    'EmbeddingProbes',
    'LabelProbabilityReward',
    'MemorisedShare',
    'MinMaxAdvantage',
    'MixtureLikelihood',
    'PolicyGradient',
    'RandomProjection',
    'Reward',
    'RolloutBuffer',
    'StandardizedAdvantage',
    'StateLayout',
    'StudentLossReward',
    'TeacherState',
    'WeightedBCE',
    'best_static_weights',
    'probe_log_probs',
    'probe_scores',
]
