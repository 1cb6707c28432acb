# Two of the four teachers, the best ones.
_base_ = '../student_mtkdrl.py'

model = dict(teachers=_base_.teachers[:2])
