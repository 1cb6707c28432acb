# The agent sees the gaps between teachers and student alone.
_base_ = '../student_mtkdrl.py'

model = dict(weighting=dict(state=dict(performance=False)))
