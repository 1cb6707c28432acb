# ResNet-34 distilled by AVER.
_base_ = './r18_imagenet.py'

model = dict(student=dict(cfg_path='mmpretrain::resnet/resnet34_8xb32_in1k.py'))
