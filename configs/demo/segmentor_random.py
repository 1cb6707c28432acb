# The segmentor with an untrained backbone.
_base_ = './segmentor.py'

variant = None
model = dict(backbone=dict(init_cfg=None))
