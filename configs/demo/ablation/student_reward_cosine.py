# The agent alone, paid for the direction of the improvement.
_base_ = '../student_mtkdrl.py'

default_hooks = dict(agent=dict(reward=dict(type='ImprovementReward', cosine=True)))
