# ResNet-56 (student), 0.9 million parameters.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(type='mtkdrl_mm.CIFARResNet', depth=56),
    head=dict(in_channels=64),
)
