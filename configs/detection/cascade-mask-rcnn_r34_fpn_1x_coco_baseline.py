# Cascade R-CNN with masks on COCO-2017 from the ResNet-34, trained without teachers.
_base_ = './cascade-mask-rcnn_r34_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint='{{$BASELINE_R34:work_dirs/baseline/r34_imagenet/epoch_100.pth}}')
    )
)
