# The student distilled by mtkdrl_stacking, of this project.
_base_ = ['../_base_/recipes/digits.py', '../_base_/methods/mtkdrl_stacking.py']

model = dict(weighting=_base_.weighting)
default_hooks = _base_.weighting_hooks
