# The sample of CIFAR-10: a small RepVGG learns from four teachers. The environment
# variable CIFAR10_POOL chooses one of ../pools/cifar10_*.py, and CIFAR10_LABELS the
# student's labels, clean or noisy, without or with the agent's held-out images.
# NUM_TEACHERS=2 keeps the first two teachers of the pool.
_base_ = [
    '../datasets/cifar10.py',
    '../schedules/cifar10.py',
    '../pools/cifar10_{{$CIFAR10_POOL:weak}}.py',
    '../labels/cifar10_{{$CIFAR10_LABELS:clean}}.py',
    '../distillation.py',
]

__pool = _base_.teachers
__num_teachers = '{{$NUM_TEACHERS:all}}'.replace('all', f'{len(__pool)}')
assert __num_teachers in map(str, range(1, len(__pool) + 1)), (
    f'NUM_TEACHERS is {__num_teachers}, but the pool has {len(__pool)} teachers'
)
model = dict(
    type='mtkdrl_mm.MultiTeacherDistiller',
    # Maps of 2x2 positions give small gradients: AVER gains from more than the usual 5.
    feature_loss_weight=20.0,
    student=dict(cfg_path='mtkdrl_mm::cifar10/student_baseline.py'),
    teachers=__pool[: int(__num_teachers)],
)
default_hooks = dict(**_base_.schedule_hooks, teacher_check=dict(num_batches=8))
train_dataloader = dict(dataset=dict(ann_file=_base_.student_labels))
# Part of the work dir's name.
variant = '{{$CIFAR10_POOL:weak}}_{{$CIFAR10_LABELS:clean}}' + (
    '' if int(__num_teachers) == len(__pool) else f'_first_{__num_teachers}'
)
