# The student distilled by mtkdrl_static: learned weights, the same for all images.
_base_ = './student_mtkdrl_stacking.py'

model = dict(weighting=dict(agent=dict(type='StaticAgent')))
