# ResNet-18 distilled by EB-KD from ResNet-50, ResNet-101,
# Wide-ResNet-50-2 and ResNeXt-50-32x4d.
_base_ = ['../_base_/recipes/imagenet_resnets.py', '../_base_/methods/ebkd.py']

model = dict(
    student=dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py'),
    weighting=_base_.weighting,
)
default_hooks = _base_.weighting_hooks
