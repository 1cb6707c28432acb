# A short schedule for the sample of CIFAR-10: AdamW, 12 epochs.
train_cfg = dict(type='mtkdrl_mm.ResumableEpochLoop', max_epochs=12, val_interval=12)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, T_max=12, convert_to_iter_based=True),
]
schedule_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=12, max_keep_ckpts=1))
