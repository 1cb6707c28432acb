# RetinaNet on COCO-2017 from the ResNet-18 that MTKD-RL distilled. The checkpoint:
# here, by the environment variable DISTILLED_R18, or with
# --cfg-options model.backbone.init_cfg.checkpoint=FILE
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['mtkdrl_mm'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        depth=18,
        init_cfg=dict(
            type='mtkdrl_mm.DistilledBackbone',
            checkpoint='{{$DISTILLED_R18:work_dirs/mtkdrl/r18_imagenet/epoch_100.pth}}',
        ),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
default_hooks = dict(label_check=dict(type='mtkdrl_mm.LabelCheckHook'))
