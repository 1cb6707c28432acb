# The first teacher of the pool alone.
_base_ = '../student_mtkdrl.py'

model = dict(teachers=_base_.teachers[:1])
