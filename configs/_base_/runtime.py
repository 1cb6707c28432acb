# mmpretrain's runtime, and what keeps a long distillation safe.
_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_imports = dict(imports=['mtkdrl_mm'], allow_failed_imports=False)

default_hooks = dict(
    # checks classes, and prints each teacher's accuracy before training
    teacher_check=dict(type='mtkdrl_mm.TeacherCheckHook', num_batches=4),
    # logs each teacher's mean weights
    teacher_weights=dict(type='mtkdrl_mm.TeacherWeightHook'),
    # stops at the first NaN or infinite loss
    finite_loss=dict(type='mtkdrl_mm.FiniteLossHook'),
    # saves a checkpoint on SIGTERM and SIGINT
    preemption=dict(type='mtkdrl_mm.PreemptionHook'),
)

# The seed decides initialisation, order, augmentations and agent.
randomness = dict(seed=0, deterministic=False)
