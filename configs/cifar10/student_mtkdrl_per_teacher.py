# MTKD-RL with one network per teacher.
_base_ = './student_mtkdrl.py'

model = dict(weighting=dict(agent=dict(type='PerTeacherAgent')))
