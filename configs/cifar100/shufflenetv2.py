# ShuffleNetV2 (student), 1.4 million parameters.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(type='mtkdrl_mm.CIFARShuffleNetV2'),
    head=dict(in_channels=1024),
)
