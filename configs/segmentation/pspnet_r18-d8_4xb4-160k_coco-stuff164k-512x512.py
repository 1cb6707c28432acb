# PSPNet on COCO-Stuff-164K from the ResNet-18 that MTKD-RL distilled, dilated, with
# the plain stem. The checkpoint: here, by the environment variable
# DISTILLED_R18, or with --cfg-options model.backbone.init_cfg.checkpoint=FILE
_base_ = 'mmseg::pspnet/pspnet_r50-d8_4xb4-160k_coco-stuff164k-512x512.py'

custom_imports = dict(imports=['mtkdrl_mm'], allow_failed_imports=False)
model = dict(
    pretrained=None,
    backbone=dict(
        type='ResNet',
        depth=18,
        init_cfg=dict(
            type='mtkdrl_mm.DistilledBackbone',
            checkpoint='{{$DISTILLED_R18:work_dirs/mtkdrl/r18_imagenet/epoch_100.pth}}',
        ),
    ),
    decode_head=dict(in_channels=512, channels=128),
    auxiliary_head=dict(in_channels=256, channels=64),
)
default_hooks = dict(label_check=dict(type='mtkdrl_mm.LabelCheckHook'))
