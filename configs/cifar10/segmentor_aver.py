# The segmentor, from the student distilled with equal weights.
_base_ = './_base_/segmentor.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            type='mtkdrl_mm.DistilledBackbone',
            checkpoint='{{$CIFAR10_STUDENTS:work_dirs/compare_cifar10_weak}}/aver/seed_{{$RUN_SEED:0}}/epoch_12.pth',
        )
    )
)
