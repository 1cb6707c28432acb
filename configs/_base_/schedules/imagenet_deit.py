# mmpretrain's schedule for DeiT: AdamW, 300 epochs, for 1,024 images.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py'

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={'.cls_token': dict(decay_mult=0.0), '.pos_embed': dict(decay_mult=0.0)}
    ),
    clip_grad=dict(max_norm=5.0),
)
train_cfg = dict(_delete_=True, type='mtkdrl_mm.ResumableEpochLoop', max_epochs=300, val_interval=1)
schedule_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=3, save_best='auto'))
