# The detector with an untrained backbone.
_base_ = './detector.py'

variant = None
model = dict(backbone=dict(init_cfg=None))
