# The agent sees the teachers' performance, and no gaps.
_base_ = '../student_mtkdrl.py'

model = dict(weighting=dict(state=dict(gap=False)))
