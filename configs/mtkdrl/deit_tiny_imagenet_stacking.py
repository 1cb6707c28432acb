# DeiT-Tiny distilled by mtkdrl_stacking from CaiT-S24, DeiT-Small and DeiT-Base.
_base_ = ['../_base_/recipes/imagenet_transformers.py', '../_base_/methods/mtkdrl_stacking.py']

model = dict(
    student=dict(cfg_path='mmpretrain::deit/deit-tiny_4xb256_in1k.py'),
    weighting=_base_.weighting,
)
default_hooks = _base_.weighting_hooks
