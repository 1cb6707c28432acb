# One teacher alone, the best.
_base_ = '../student_mtkdrl.py'

model = dict(teachers=_base_.teachers[:1])
