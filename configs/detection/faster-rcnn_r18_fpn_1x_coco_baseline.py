# Faster R-CNN on COCO-2017 from the ResNet-18, trained without teachers.
_base_ = './faster-rcnn_r18_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint='{{$BASELINE_R18:work_dirs/baseline/r18_imagenet/epoch_100.pth}}')
    )
)
