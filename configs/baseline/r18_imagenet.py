# ResNet-18 trained without teachers, on the same data and schedule.
_base_ = [
    'mmpretrain::_base_/models/resnet18.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_resnets.py',
    '../_base_/runtime.py',
]

default_hooks = _base_.schedule_hooks
