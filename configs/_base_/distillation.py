# The runtime of a distillation: it watches teachers and losses.
_base_ = './runtime.py'

default_hooks = dict(
    # checks classes, and prints each teacher's accuracy before training
    teacher_check=dict(type='mtkdrl_mm.TeacherCheckHook', num_batches=4),
    # logs each teacher's mean weights
    teacher_weights=dict(type='mtkdrl_mm.TeacherWeightHook'),
    # stops at the first NaN or infinite loss
    finite_loss=dict(type='mtkdrl_mm.FiniteLossHook'),
)
