# PSPNet on ADE20K from the ResNet-18, trained without teachers.
_base_ = './pspnet_r18-d8_4xb4-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint='{{$BASELINE_R18:work_dirs/baseline/r18_imagenet/epoch_100.pth}}')
    )
)
