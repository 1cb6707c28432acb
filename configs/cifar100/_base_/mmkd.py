# MMKD's weights.
_base_ = './distillation.py'

model = dict(weighting=dict(type='MMKD'))
default_hooks = dict(meta_learning=dict(type='mtkdrl_mm.MetaLearningHook'))
