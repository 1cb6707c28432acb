# Teacher 4: WRN-28-4, 5.9 million parameters.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(type='mtkdrl_mm.CIFARWideResNet', depth=28, widen_factor=4),
    head=dict(in_channels=256),
)
