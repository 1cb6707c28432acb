# MTKD-RL as published: one network per teacher, fused with confidence and
# divergence, and paid for closeness to the student.
_base_ = './cait_xxs24_imagenet.py'

model = dict(
    weighting=dict(agent=dict(type='PerTeacherAgent'), parts=['agent', 'confidence', 'divergence'])
)
default_hooks = dict(agent=dict(reward=dict(type='ClosenessReward')))
