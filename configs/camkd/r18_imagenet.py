# ResNet-18 distilled with CAMKD's weights from ResNet-50, ResNet-101,
# Wide-ResNet-50-2 and ResNeXt-50-32x4d.
_base_ = '../_base_/imagenet.py'

model = dict(
    student=dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py'),
    weighting=dict(type='CAMKD'),
)
