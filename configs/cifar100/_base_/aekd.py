# AEKD's weights.
_base_ = './distillation.py'

model = dict(weighting=dict(type='AEKD'))
