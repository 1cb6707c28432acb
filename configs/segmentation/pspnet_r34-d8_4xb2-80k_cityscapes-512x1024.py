# PSPNet on Cityscapes from the ResNet-34 that MTKD-RL distilled
# (environment variable: DISTILLED_R34).
_base_ = './pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'

model = dict(
    backbone=dict(
        depth=34,
        init_cfg=dict(checkpoint='{{$DISTILLED_R34:work_dirs/mtkdrl/r34_imagenet/epoch_100.pth}}'),
    )
)
