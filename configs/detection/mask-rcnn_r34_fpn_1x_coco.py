# Mask R-CNN on COCO-2017 from the ResNet-34 that MTKD-RL distilled
# (environment variable: DISTILLED_R34).
_base_ = './mask-rcnn_r18_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        depth=34,
        init_cfg=dict(checkpoint='{{$DISTILLED_R34:work_dirs/mtkdrl/r34_imagenet/epoch_100.pth}}'),
    )
)
