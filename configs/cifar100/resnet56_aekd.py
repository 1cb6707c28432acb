# ResNet-56 distilled by AE-KD.
_base_ = './_base_/aekd.py'

model = dict(student=dict(cfg_path='configs/cifar100/resnet56_baseline.py'))
