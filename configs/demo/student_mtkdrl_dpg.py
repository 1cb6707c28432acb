# MTKD-RL with DPG in place of policy gradient.
_base_ = './student_mtkdrl.py'

default_hooks = dict(agent=dict(algorithm=dict(type='DPG')))
