# Teacher 3: ResNet-32x4, 7.4 million parameters.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(type='mtkdrl_mm.CIFARResNet', depth=32, stem_channels=32, base_channels=64),
    head=dict(in_channels=256),
)
