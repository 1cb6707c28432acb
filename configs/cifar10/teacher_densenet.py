# Teacher 2: a small DenseNet.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(type='DenseNet', arch=dict(growth_rate=16, depths=[4, 6, 6], init_channels=32)),
    head=dict(in_channels=168),
)
