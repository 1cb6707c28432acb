# The student without teachers: a RepVGG of 0.2 million parameters. The environment
# variable CIFAR10_LABELS chooses its labels, see ../_base_/labels.
_base_ = [
    './_base_/classifier.py',
    './_base_/student.py',
    '../_base_/labels/cifar10_{{$CIFAR10_LABELS:clean}}.py',
]

model = dict(backbone=dict(**_base_.student_backbone, out_indices=(3,)), head=dict(in_channels=128))
train_dataloader = dict(dataset=dict(ann_file=_base_.student_labels))
# Part of the work dir's name.
variant = '{{$CIFAR10_LABELS:clean}}'
