# A plain classifier of CIFAR-100; its backbone is filled in by the configs.
_base_ = ['./cifar100.py', '../../_base_/runtime.py']

model = dict(
    type='mmpretrain.ImageClassifier',
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
default_hooks = dict(checkpoint=dict(interval=5, max_keep_ckpts=1))
