# MTKD-RL with DDPG in place of policy gradient.
_base_ = './student_mtkdrl.py'

default_hooks = dict(agent=dict(algorithm=dict(type='DDPG')))
