# Distillation on ImageNet from four teachers, mmpretrain's data and schedule.
_base_ = [
    './pool_imagenet_resnets.py',
    './distillation.py',
    'mmpretrain::_base_/datasets/imagenet_bs32.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
]

train_cfg = dict(_delete_=True, type='mtkdrl_mm.ResumableEpochLoop', max_epochs=100, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=3, save_best='auto'))
