# CIFAR-100 as published. The student is one of regnetx_200mf, mobilenetv2,
# shufflenetv2 and resnet56, chosen by the environment variable STUDENT.
_base_ = [
    '../datasets/cifar100.py',
    '../schedules/cifar100.py',
    '../pools/cifar100.py',
    '../distillation.py',
]

model = dict(
    type='mtkdrl_mm.MultiTeacherDistiller',
    student=dict(cfg_path='mtkdrl_mm::cifar100/{{$STUDENT:resnet56}}.py'),
    teachers=_base_.teachers,
)
default_hooks = dict(**_base_.schedule_hooks, teacher_check=dict(num_batches=16))
# Part of the work dir's name.
variant = '{{$STUDENT:resnet56}}'
