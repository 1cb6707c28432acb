# CaiT-XXS24 of timm learns from the transformers, with DeiT's blended and
# smoothed labels.
_base_ = './imagenet_transformers.py'

model = dict(
    student=dict(
        type='ImageClassifier',
        backbone=dict(
            type='mtkdrl_mm.TimmFeatures', model_name='cait_xxs24_224', drop_path_rate=0.05
        ),
        head=dict(
            type='VisionTransformerClsHead',
            num_classes=1000,
            in_channels=192,
            loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
            # DeiT's; the head's own default is zero.
            init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        ),
        train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
    ),
)
