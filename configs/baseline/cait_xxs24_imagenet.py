# CaiT-XXS24 trained without teachers, on the same data and schedule.
_base_ = './deit_tiny_imagenet.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mtkdrl_mm.TimmFeatures',
        model_name='cait_xxs24_224',
        drop_path_rate=0.05,
    ),
    # The class token of CaiT is as long as DeiT-Tiny's; timm initialises the backbone.
    head=dict(init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02)),
    init_cfg=None,
)
