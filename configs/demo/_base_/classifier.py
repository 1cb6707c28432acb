# A plain classifier of digits; configs add its backbone.
_base_ = [
    '../../_base_/datasets/digits.py',
    '../../_base_/schedules/digits.py',
    '../../_base_/models/classifier.py',
    '../../_base_/runtime.py',
]

model = dict(head=dict(num_classes=10))
default_hooks = _base_.schedule_hooks
