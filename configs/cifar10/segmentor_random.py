# The segmentor, its backbone untrained: it learns as fast as the rest.
_base_ = './_base_/segmentor.py'

model = dict(backbone=dict(norm_eval=False))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=1.0))))
