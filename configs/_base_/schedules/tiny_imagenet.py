# The schedule of the CIFAR-10 sample, with 8 epochs.
_base_ = './cifar10.py'

train_cfg = dict(max_epochs=8, val_interval=8)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(type='CosineAnnealingLR', by_epoch=True, T_max=8, convert_to_iter_based=True),
]
schedule_hooks = dict(checkpoint=dict(interval=8))
