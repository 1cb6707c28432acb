# Advantages in units of a running deviation.
_base_ = '../student_mtkdrl.py'

default_hooks = dict(agent=dict(advantage=dict(type='StandardizedAdvantage')))
