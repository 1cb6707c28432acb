# The agent alone, paid for closeness to the student.
_base_ = '../student_mtkdrl.py'

default_hooks = dict(agent=dict(reward=dict(type='ClosenessReward')))
