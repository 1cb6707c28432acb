# MMKD: meta networks predict the weights (Zhang et al., "Adaptive Multi-Teacher
# Knowledge Distillation with Meta-Learning", ICME 2023).
weighting = dict(type='MMKD')
weighting_hooks = dict(meta_learning=dict(type='mtkdrl_mm.MetaLearningHook'))
