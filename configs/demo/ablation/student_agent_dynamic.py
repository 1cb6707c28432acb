# All three parts of the action, mixed by factors that are learned.
_base_ = '../student_mtkdrl.py'

model = dict(weighting=dict(mixing='dynamic'))
