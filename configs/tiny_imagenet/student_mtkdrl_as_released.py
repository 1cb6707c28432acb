# The student distilled by mtkdrl_as_released, what the authors' released code does.
_base_ = ['../_base_/recipes/tiny_imagenet.py', '../_base_/methods/mtkdrl_as_released.py']

model = dict(weighting=_base_.weighting)
default_hooks = _base_.weighting_hooks
