# mmpretrain's runtime, and a training that can be interrupted anywhere.
_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_imports = dict(imports=['mtkdrl_mm'], allow_failed_imports=False)

# Checkpoints are written wholly, read safely, and resumed exactly.
runner_type = 'mtkdrl_mm.ResumableRunner'

default_hooks = dict(
    # saves a checkpoint on SIGTERM and SIGINT
    preemption=dict(type='mtkdrl_mm.PreemptionHook'),
)

# The seed decides initialisation, order, augmentations and agent.
randomness = dict(seed=0, deterministic=False)
