# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Enters the reinforcement learning of mtkdrl_mm.rl in the registries.

That package needs no OpenMMLab package, so it does not register itself.
"""

from mtkdrl_mm import rl
from mtkdrl_mm.registry import TASK_UTILS

for component in (
    rl.ClosenessReward,
    rl.ImprovementReward,
    rl.HeldOutImprovementReward,
    rl.MinMaxAdvantage,
    rl.StandardizedAdvantage,
    rl.PolicyGradient,
    rl.PPO,
    rl.DPG,
    rl.DDPG,
):
    TASK_UTILS.register_module(module=component)
