# The published schedule for CIFAR-100: SGD, 240 epochs.
train_cfg = dict(type='mtkdrl_mm.ResumableEpochLoop', max_epochs=240, val_interval=5)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[150, 180, 210], gamma=0.1)
auto_scale_lr = dict(base_batch_size=64)
schedule_hooks = dict(checkpoint=dict(interval=5, max_keep_ckpts=1))
