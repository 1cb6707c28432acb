# The detector, from the student distilled by MTKD-RL.
_base_ = './_base_/detector.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            type='mtkdrl_mm.DistilledBackbone',
            checkpoint='{{$DEMO_STUDENTS:work_dirs/demo}}/mtkdrl/seed_{{$RUN_SEED:0}}/epoch_30.pth',
        )
    )
)
