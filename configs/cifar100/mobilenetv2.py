# MobileNetV2 (student), 2.4 million parameters.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(type='mtkdrl_mm.CIFARMobileNetV2'),
    neck=dict(
        _delete_=True,
        type='mtkdrl_mm.ConvGlobalAveragePooling',
        in_channels=320,
        out_channels=1280,
    ),
    head=dict(in_channels=1280),
)
