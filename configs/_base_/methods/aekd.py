# AE-KD: one set of weights per batch, by multi-objective optimisation (Du et al.,
# "Agree to Disagree", NeurIPS 2020).
weighting = dict(type='AEKD')
weighting_hooks = dict()
