# DeepLabV3 on Cityscapes from the ResNet-18, trained without teachers.
_base_ = './deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py'

model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint='{{$BASELINE_R18:work_dirs/baseline/r18_imagenet/epoch_100.pth}}')
    )
)
