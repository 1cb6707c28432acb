# PSPNet on Cityscapes from the ResNet-34, trained without teachers.
_base_ = './pspnet_r34-d8_4xb2-80k_cityscapes-512x1024.py'

model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint='{{$BASELINE_R34:work_dirs/baseline/r34_imagenet/epoch_100.pth}}')
    )
)
