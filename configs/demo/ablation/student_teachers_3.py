# Three of the four teachers, all but the weak one.
_base_ = '../student_mtkdrl.py'

model = dict(teachers=_base_.teachers[:3])
