# The schedule of the demo: AdamW, 30 epochs.
train_cfg = dict(type='mtkdrl_mm.ResumableEpochLoop', max_epochs=30, val_interval=30)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=5e-3, weight_decay=0.01))
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, T_max=30)
schedule_hooks = dict(logger=dict(interval=14), checkpoint=dict(interval=30, max_keep_ckpts=1))
