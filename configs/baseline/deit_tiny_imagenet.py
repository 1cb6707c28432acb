# DeiT-Tiny trained without teachers, on the same data and schedule.
_base_ = [
    '../_base_/datasets/imagenet_deit.py',
    '../_base_/schedules/imagenet_deit.py',
    '../_base_/runtime.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(type='VisionTransformer', arch='deit-tiny', img_size=224, patch_size=16),
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=1000,
        in_channels=192,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.02),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
default_hooks = _base_.schedule_hooks
