# The pool of four and the student that learns from it.
_base_ = ['./digits.py']

model = dict(
    type='mtkdrl_mm.MultiTeacherDistiller',
    student=dict(cfg_path='configs/demo/student_baseline.py'),
    teachers=[
        dict(
            name=name,
            cfg_path=f'configs/demo/teacher_{name}.py',
            checkpoint=f'work_dirs/demo/teacher_{name}/epoch_30.pth',
        )
        for name in ('resnet', 'shufflenet', 'mobilenet', 'weak')
    ],
)
default_hooks = dict(
    teacher_check=dict(type='mtkdrl_mm.TeacherCheckHook', num_batches=42),
    teacher_weights=dict(type='mtkdrl_mm.TeacherWeightHook'),
    finite_loss=dict(type='mtkdrl_mm.FiniteLossHook'),
)
