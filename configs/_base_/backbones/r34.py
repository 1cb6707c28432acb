# A ResNet-34 that was trained on ImageNet, chosen by BACKBONE as the ResNet-18.
_base_ = './r18.py'

variant = '{{$BACKBONE:mtkdrl/r34_imagenet}}'
_backbone = dict(
    depth=34,
    init_cfg=dict(checkpoint='work_dirs/{{$BACKBONE:mtkdrl/r34_imagenet}}/epoch_100.pth'),
)
detector = dict(backbone=_backbone)
segmentor = dict(backbone=_backbone)
