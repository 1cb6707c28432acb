# The segmentor, from the student trained without teachers.
_base_ = './_base_/segmentor.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            type='mtkdrl_mm.DistilledBackbone',
            checkpoint='{{$DEMO_STUDENTS:work_dirs/demo}}/baseline/seed_{{$RUN_SEED:0}}/epoch_30.pth',
        )
    )
)
