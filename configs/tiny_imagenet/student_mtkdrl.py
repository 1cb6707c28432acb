# The student distilled by MTKD-RL, as published.
_base_ = ['../_base_/recipes/tiny_imagenet.py', '../_base_/methods/mtkdrl.py']

model = dict(weighting=_base_.weighting)
default_hooks = _base_.weighting_hooks
