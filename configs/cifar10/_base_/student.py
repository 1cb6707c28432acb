# The student's backbone in a detector or segmentor. BACKBONE is the method that
# trained it, RUN_SEED the seed, CIFAR10_STUDENTS the folder of the trainings.
_base_ = '../../_base_/models/small_repvgg.py'

distilled_backbone = dict(
    **_base_.student_backbone,
    out_indices=(1, 2, 3),
    # There are few scenes: the backbone changes slowly.
    norm_eval=True,
    init_cfg=dict(
        type='mtkdrl_mm.DistilledBackbone',
        checkpoint='{{$CIFAR10_STUDENTS:work_dirs/compare_cifar10_weak}}/{{$BACKBONE:mtkdrl}}/seed_{{$RUN_SEED:0}}/epoch_12.pth',
    ),
)
