# CA-MKD: teachers with a lower cross entropy have a higher weight (Zhang et al.,
# "Confidence-Aware Multi-Teacher Knowledge Distillation", ICASSP 2022).
weighting = dict(type='CAMKD')
weighting_hooks = dict()
