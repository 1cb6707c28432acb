# The schedule of the demo: AdamW, 25 epochs.
train_cfg = dict(type='mtkdrl_mm.ResumableEpochLoop', max_epochs=25, val_interval=25)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.01))
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, T_max=25)
schedule_hooks = dict(logger=dict(interval=14), checkpoint=dict(interval=25, max_keep_ckpts=1))
