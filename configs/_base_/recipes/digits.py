# The demo: a small ResNet learns digits from labels of which many are wrong, and from
# four teachers. The pool is confused or weak, chosen by the environment variable
# DIGITS_POOL, the list of labels by STUDENT_LABELS.
# NUM_TEACHERS=2 keeps the first two teachers of the pool.
_base_ = [
    '../datasets/digits.py',
    '../schedules/digits.py',
    '../pools/digits_{{$DIGITS_POOL:confused}}.py',
    '../distillation.py',
]

__pool = _base_.teachers
__num_teachers = '{{$NUM_TEACHERS:all}}'.replace('all', f'{len(__pool)}')
assert __num_teachers in map(str, range(1, len(__pool) + 1)), (
    f'NUM_TEACHERS is {__num_teachers}, but the pool has {len(__pool)} teachers'
)
model = dict(
    type='mtkdrl_mm.MultiTeacherDistiller',
    student=dict(cfg_path='mtkdrl_mm::demo/student_baseline.py'),
    teachers=__pool[: int(__num_teachers)],
)
default_hooks = dict(**_base_.schedule_hooks, teacher_check=dict(num_batches=42))
train_dataloader = dict(dataset=dict(ann_file='meta/{{$STUDENT_LABELS:student}}.txt'))
