# CaiT-XXS24 trained without teachers, on the same data and schedule.
_base_ = ['./deit_tiny_imagenet.py']

model = dict(
    _delete_=True,
    type='ImageClassifier',
    backbone=dict(type='mtkdrl_mm.TimmFeatures', model_name='cait_xxs24_224', drop_path_rate=0.05),
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=1000,
        in_channels=192,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
