# CIFAR-100 and the schedule, as published. mmpretrain's data set downloads
# itself to data/cifar100 unless it is there.
_base_ = 'mmpretrain::_base_/datasets/cifar100_bs16.py'

train_dataloader = dict(batch_size=64)
val_dataloader = dict(batch_size=64)
test_dataloader = val_dataloader
val_cfg = dict()
test_cfg = dict()

train_cfg = dict(type='mtkdrl_mm.ResumableEpochLoop', max_epochs=240, val_interval=5)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[150, 180, 210], gamma=0.1)
auto_scale_lr = dict(base_batch_size=64)
