# ResNet-34 distilled by mtkdrl_stacking.
_base_ = './r18_imagenet_stacking.py'

model = dict(student=dict(cfg_path='mmpretrain::resnet/resnet34_8xb32_in1k.py'))
