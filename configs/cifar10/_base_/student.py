# The student's backbone, and the same one in a detector or segmentor. BACKBONE is
# the method that trained it, RUN_SEED the seed, CIFAR10_STUDENTS the folder of
# the trainings.
student_backbone = dict(
    type='mmpretrain.RepVGG',
    arch=dict(
        num_blocks=[1, 2, 3, 1],
        width_factor=[0.25, 0.25, 0.25, 0.25],
        group_layer_map=None,
        se_cfg=None,
        stem_channels=16,
    ),
    strides=(1, 2, 2, 2),
)
distilled_backbone = dict(
    **student_backbone,
    out_indices=(1, 2, 3),
    # There are few scenes: the backbone changes slowly.
    norm_eval=True,
    init_cfg=dict(
        type='mtkdrl_mm.DistilledBackbone',
        checkpoint='{{$CIFAR10_STUDENTS:work_dirs/compare_cifar10_weak}}/{{$BACKBONE:mtkdrl}}/seed_{{$RUN_SEED:0}}/epoch_12.pth',
    ),
)
