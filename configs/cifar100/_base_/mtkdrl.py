# MTKD-RL: the agent alone, paid for the student's own improvement.
_base_ = './distillation.py'

model = dict(weighting=dict(type='MTKDRL'))
default_hooks = dict(agent=dict(type='mtkdrl_mm.AgentHook'))
