# The demo: a small ResNet learns digits from labels of which many are wrong, and from
# four teachers. The pool is confused or weak, chosen by the environment variable
# DIGITS_POOL, the list of labels by STUDENT_LABELS.
_base_ = [
    '../datasets/digits.py',
    '../schedules/digits.py',
    '../pools/digits_{{$DIGITS_POOL:confused}}.py',
    '../distillation.py',
]

model = dict(
    type='mtkdrl_mm.MultiTeacherDistiller',
    student=dict(cfg_path='mtkdrl_mm::demo/student_baseline.py'),
    teachers=_base_.teachers,
)
default_hooks = dict(**_base_.schedule_hooks, teacher_check=dict(num_batches=42))
train_dataloader = dict(dataset=dict(ann_file='meta/{{$STUDENT_LABELS:student}}.txt'))
