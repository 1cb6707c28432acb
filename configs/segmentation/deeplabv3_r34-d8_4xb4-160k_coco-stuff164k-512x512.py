# DeepLabV3 on COCO-Stuff-164K from the ResNet-34 that MTKD-RL distilled
# (environment variable: DISTILLED_R34).
_base_ = './deeplabv3_r18-d8_4xb4-160k_coco-stuff164k-512x512.py'

model = dict(
    backbone=dict(
        depth=34,
        init_cfg=dict(checkpoint='{{$DISTILLED_R34:work_dirs/mtkdrl/r34_imagenet/epoch_100.pth}}'),
    )
)
