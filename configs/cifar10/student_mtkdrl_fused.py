# MTKD-RL, paid for improvement, but fused with confidence and divergence.
_base_ = './student_mtkdrl.py'

model = dict(weighting=dict(parts=['agent', 'confidence', 'divergence']))
