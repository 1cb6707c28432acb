# The segmentor with an untrained backbone, which learns as fast as the rest.
_base_ = './segmentor.py'

variant = None
model = dict(backbone=dict(norm_eval=False, init_cfg=None))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=1.0))))
