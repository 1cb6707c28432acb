# The demo: a small ResNet learns digits from four teachers.
_base_ = [
    '../datasets/digits.py',
    '../schedules/digits.py',
    '../pools/digits.py',
    '../distillation.py',
]

model = dict(
    type='mtkdrl_mm.MultiTeacherDistiller',
    student=dict(cfg_path='configs/demo/student_baseline.py'),
    teachers=_base_.teachers,
)
default_hooks = dict(**_base_.schedule_hooks, teacher_check=dict(num_batches=42))
