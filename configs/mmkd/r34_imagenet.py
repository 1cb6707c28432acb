# ResNet-34 distilled with MMKD's weights from ResNet-50, ResNet-101,
# Wide-ResNet-50-2 and ResNeXt-50-32x4d.
_base_ = '../_base_/imagenet.py'

model = dict(
    student=dict(cfg_path='mmpretrain::resnet/resnet34_8xb32_in1k.py'),
    weighting=dict(type='MMKD'),
)
default_hooks = dict(meta_learning=dict(type='mtkdrl_mm.MetaLearningHook'))
