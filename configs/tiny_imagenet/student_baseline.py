# The student without teachers: a RepVGG of 0.2 million parameters.
_base_ = [
    '../_base_/datasets/tiny_imagenet.py',
    '../_base_/schedules/tiny_imagenet.py',
    '../_base_/models/classifier.py',
    '../_base_/models/small_repvgg.py',
    '../_base_/runtime.py',
]

model = dict(
    backbone=dict(**_base_.student_backbone, out_indices=(3,)),
    head=dict(num_classes=50, in_channels=128),
)
default_hooks = _base_.schedule_hooks
