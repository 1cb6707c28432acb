# A ResNet-34 that was trained on ImageNet. BACKBONE is the name of that training,
# its folder under work_dirs; for a file elsewhere set
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE
custom_imports = dict(imports=['mtkdrl_mm'], allow_failed_imports=False)

# Part of the work dir's name.
variant = '{{$BACKBONE:mtkdrl/r34_imagenet}}'
backbone = dict(
    depth=34,
    init_cfg=dict(
        type='mtkdrl_mm.DistilledBackbone',
        checkpoint='work_dirs/{{$BACKBONE:mtkdrl/r34_imagenet}}/epoch_100.pth',
    ),
)
