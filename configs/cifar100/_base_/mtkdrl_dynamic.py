# MTKD-RL, fused with confidence and divergence by factors that are learned.
_base_ = './mtkdrl.py'

model = dict(weighting=dict(mixing='dynamic'))
