# mmpretrain's DeiT-Tiny recipe: its data, AdamW, 300 epochs at a batch of 1024.
# Mixup, cutmix and label smoothing belong to the student's config.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
]

train_dataloader = dict(batch_size=256)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={'.cls_token': dict(decay_mult=0.0), '.pos_embed': dict(decay_mult=0.0)}
    ),
    clip_grad=dict(max_norm=5.0),
)
train_cfg = dict(_delete_=True, type='mtkdrl_mm.ResumableEpochLoop', max_epochs=300, val_interval=1)
