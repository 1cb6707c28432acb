# DeiT-Tiny trained without teachers, on the same data and schedule.
_base_ = ['mmpretrain::deit/deit-tiny_4xb256_in1k.py']

custom_imports = dict(imports=['mtkdrl_mm'], allow_failed_imports=False)

train_cfg = dict(_delete_=True, type='mtkdrl_mm.ResumableEpochLoop', max_epochs=300, val_interval=1)
default_hooks = dict(
    checkpoint=dict(interval=1, max_keep_ckpts=3, save_best='auto'),
    preemption=dict(type='mtkdrl_mm.PreemptionHook'),
)
randomness = dict(seed=0, deterministic=False)
