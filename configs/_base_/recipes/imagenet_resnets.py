# ImageNet, mmpretrain's schedule for ResNets, four ResNets as teachers.
_base_ = [
    '../datasets/imagenet.py',
    '../schedules/imagenet_resnets.py',
    '../pools/imagenet_resnets.py',
    '../distillation.py',
]

model = dict(
    type='mtkdrl_mm.MultiTeacherDistiller',
    teachers=_base_.teachers,
)
default_hooks = _base_.schedule_hooks
