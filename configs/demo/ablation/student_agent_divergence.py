# The agent and the divergence, half and half.
_base_ = '../student_mtkdrl.py'

model = dict(weighting=dict(parts=['agent', 'divergence']))
