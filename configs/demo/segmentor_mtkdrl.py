# The segmentor, from the student distilled by MTKD-RL.
_base_ = './_base_/segmentor.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            type='mtkdrl_mm.DistilledBackbone',
            checkpoint='work_dirs/demo/student_mtkdrl/epoch_30.pth',
        )
    )
)
