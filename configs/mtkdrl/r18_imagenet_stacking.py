# ResNet-18 distilled by mtkdrl_stacking, of this project.
_base_ = ['../_base_/recipes/imagenet_resnets.py', '../_base_/methods/mtkdrl_stacking.py']

model = dict(
    student=dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py'),
    weighting=_base_.weighting,
)
default_hooks = _base_.weighting_hooks
