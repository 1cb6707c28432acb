# MTKD-RL, its agent trained by DDPG.
_base_ = './student_mtkdrl.py'

default_hooks = dict(agent=dict(algorithm=dict(type='DDPG')))
