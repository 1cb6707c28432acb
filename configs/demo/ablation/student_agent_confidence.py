# The agent and the confidence, half and half.
_base_ = '../student_mtkdrl.py'

model = dict(weighting=dict(parts=['agent', 'confidence']))
