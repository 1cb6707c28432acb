# All three parts of the action, a third each.
_base_ = '../student_mtkdrl.py'

model = dict(weighting=dict(parts=['agent', 'confidence', 'divergence']))
