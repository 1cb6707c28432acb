# A plain classifier of CIFAR-100; configs add its backbone.
_base_ = [
    '../../_base_/datasets/cifar100.py',
    '../../_base_/schedules/cifar100.py',
    '../../_base_/models/classifier.py',
    '../../_base_/runtime.py',
]

model = dict(head=dict(num_classes=100))
default_hooks = _base_.schedule_hooks
