# The student distilled with teacher dropping.
_base_ = ['../_base_/recipes/tiny_imagenet.py', '../_base_/methods/teacher_dropping.py']

model = dict(weighting=_base_.weighting)
default_hooks = _base_.weighting_hooks
