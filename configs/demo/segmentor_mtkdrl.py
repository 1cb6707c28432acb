# The segmentor from the student distilled by MTKD-RL, as published.
_base_ = './segmentor.py'

variant = None
_students = '{{$DEMO_STUDENTS:work_dirs/demo}}'
model = dict(
    backbone=dict(init_cfg=dict(checkpoint=f'{_students}/mtkdrl/seed_{{$RUN_SEED:0}}/epoch_25.pth'))
)
