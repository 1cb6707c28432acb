# The detector, from the student trained without teachers.
_base_ = './_base_/detector.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            type='mtkdrl_mm.DistilledBackbone',
            checkpoint='work_dirs/demo/student_baseline/epoch_30.pth',
        )
    )
)
