# AVER: every teacher has the same weight.
weighting = dict(type='AVER')
weighting_hooks = dict()
