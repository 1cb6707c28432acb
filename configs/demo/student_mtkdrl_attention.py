# MTKD-RL with an agent that attends over the teachers.
_base_ = './student_mtkdrl.py'

model = dict(weighting=dict(agent=dict(type='AttentionAgent')))
