# The states are not standardised.
_base_ = '../student_mtkdrl.py'

model = dict(weighting=dict(agent=dict(type='JointAgent', standardize=False)))
