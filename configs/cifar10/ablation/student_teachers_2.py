# The first two teachers of the pool.
_base_ = '../student_mtkdrl.py'

model = dict(teachers=_base_.teachers[:2])
