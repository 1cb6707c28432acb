# PSPNet on COCO-Stuff-164K from the ResNet-34, trained without teachers.
_base_ = './pspnet_r34-d8_4xb4-160k_coco-stuff164k-512x512.py'

model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint='{{$BASELINE_R34:work_dirs/baseline/r34_imagenet/epoch_100.pth}}')
    )
)
