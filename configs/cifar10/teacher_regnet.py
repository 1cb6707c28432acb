# Teacher 4 of the clean pool: a small RegNetX.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(
        type='RegNet',
        arch=dict(w0=16, wa=16.0, wm=2.0, group_w=8, depth=8, bot_mul=1.0),
        stem_channels=16,
        base_channels=16,
        strides=(1, 2, 2, 2),
    ),
    head=dict(in_channels=128),
)
