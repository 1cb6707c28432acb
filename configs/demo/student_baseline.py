# The student without teachers.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(
        type='ResNet_CIFAR',
        depth=18,
        stem_channels=4,
        base_channels=4,
        strides=(1, 1, 2, 2),
        zero_init_residual=False,
    ),
    head=dict(in_channels=32),
)
train_dataloader = dict(dataset=dict(ann_file='meta/{{$STUDENT_LABELS:student}}.txt'))
