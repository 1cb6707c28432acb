# A plain classifier of CIFAR-10; its backbone is filled in by the configs.
_base_ = './cifar10.py'

model = dict(
    type='mmpretrain.ImageClassifier',
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
