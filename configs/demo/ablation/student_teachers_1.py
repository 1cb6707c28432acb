# 1 of the four teachers, the weak one not among them.
_base_ = '../student_mtkdrl.py'

model = dict(
    teachers=[
        dict(
            name=name,
            cfg_path=f'configs/demo/teacher_{name}.py',
            checkpoint=f'work_dirs/demo/teacher_{name}/epoch_30.pth',
        )
        for name in ('resnet',)
    ]
)
