# The divergence alone, without an agent's say.
_base_ = '../student_mtkdrl.py'

model = dict(weighting=dict(parts=['divergence']))
