# MTKD-RL with one network over all teachers' states.
_base_ = './student_mtkdrl.py'

model = dict(weighting=dict(agent=dict(type='JointAgent')))
