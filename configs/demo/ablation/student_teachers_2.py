# Two of the four teachers.
_base_ = '../student_mtkdrl.py'

model = dict(teachers=_base_.teachers[:2])
