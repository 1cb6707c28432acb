# The segmentor from the student trained without teachers.
_base_ = './segmentor.py'

variant = None
_students = '{{$DEMO_STUDENTS:work_dirs/demo}}'
model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint=f'{_students}/baseline/seed_{{$RUN_SEED:0}}/epoch_25.pth')
    )
)
