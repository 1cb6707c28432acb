# DeiT-Tiny distilled by MTKD-RL from CaiT-S24, DeiT-Small and DeiT-Base.
_base_ = '../_base_/imagenet_transformers.py'

model = dict(
    student=dict(cfg_path='mmpretrain::deit/deit-tiny_4xb256_in1k.py'),
    weighting=dict(type='MTKDRL'),
)
default_hooks = dict(agent=dict(type='mtkdrl_mm.AgentHook', reward=dict(type='ImprovementReward')))
