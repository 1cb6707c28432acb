# MTKD-RL's agent alone, paid for closeness to the student: it follows the
# teacher who is easiest to imitate.
_base_ = './student_mtkdrl.py'

default_hooks = dict(agent=dict(reward=dict(type='ClosenessReward')))
