# Teacher 2: a small ShuffleNetV2.
_base_ = './_base_/classifier.py'

model = dict(backbone=dict(type='ShuffleNetV2', widen_factor=0.5), head=dict(in_channels=1024))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4),
    clip_grad=dict(max_norm=5.0),
)
