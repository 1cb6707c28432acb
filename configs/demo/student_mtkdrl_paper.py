# MTKD-RL as published: the reward is closeness to the student.
_base_ = './_base_/distillation.py'

model = dict(weighting=dict(type='MTKDRL'))
default_hooks = dict(agent=dict(type='mtkdrl_mm.AgentHook', reward=dict(type='ClosenessReward')))
