# mmpretrain's schedule for ResNets: SGD, 100 epochs, a learning rate of 0.1 for
# 256 images.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs256.py'

train_cfg = dict(_delete_=True, type='mtkdrl_mm.ResumableEpochLoop', max_epochs=100, val_interval=1)
schedule_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=3, save_best='auto'))
