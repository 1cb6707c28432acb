# Three of the four teachers: all but the one that is right where these are wrong.
_base_ = '../student_mtkdrl.py'

model = dict(teachers=_base_.teachers[:3])
