# A ResNet-18 that was trained on ImageNet. BACKBONE is the name of that training,
# its folder under work_dirs; for a file elsewhere set
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE
custom_imports = dict(imports=['mtkdrl_mm'], allow_failed_imports=False)

# Part of the work dir's name.
variant = '{{$BACKBONE:mtkdrl/r18_imagenet}}'
_backbone = dict(
    depth=18,
    init_cfg=dict(
        type='mtkdrl_mm.DistilledBackbone',
        checkpoint='work_dirs/{{$BACKBONE:mtkdrl/r18_imagenet}}/epoch_100.pth',
    ),
)
# What it changes in a detector with FPN, and in a segmentor: the plain stem of the
# distilled networks, and heads as wide as mmseg's for ResNet-18.
detector = dict(backbone=_backbone, neck=dict(in_channels=[64, 128, 256, 512]))
segmentor = dict(
    pretrained=None,
    backbone=dict(type='ResNet', **_backbone),
    decode_head=dict(in_channels=512, channels=128),
    auxiliary_head=dict(in_channels=256, channels=64),
)
