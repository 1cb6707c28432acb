# CaiT-XXS24 distilled by MTKD-RL from CaiT-S24, DeiT-Small and DeiT-Base.
_base_ = '../_base_/imagenet_cait_xxs24.py'

model = dict(weighting=dict(type='MTKDRL'))
default_hooks = dict(agent=dict(type='mtkdrl_mm.AgentHook', reward=dict(type='ImprovementReward')))
