# Teacher 1: a small ResNet.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(
        type='ResNet_CIFAR',
        depth=18,
        stem_channels=16,
        base_channels=16,
        strides=(2, 2, 2, 2),
        zero_init_residual=False,
    ),
    head=dict(in_channels=128),
)
