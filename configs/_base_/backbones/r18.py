# A ResNet-18 that was trained on ImageNet. BACKBONE is the name of that training,
# its folder under work_dirs; for a file elsewhere set
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE
custom_imports = dict(imports=['mtkdrl_mm'], allow_failed_imports=False)

# Part of the work dir's name.
variant = '{{$BACKBONE:mtkdrl/r18_imagenet}}'
backbone = dict(
    depth=18,
    init_cfg=dict(
        type='mtkdrl_mm.DistilledBackbone',
        checkpoint='work_dirs/{{$BACKBONE:mtkdrl/r18_imagenet}}/epoch_100.pth',
    ),
)
