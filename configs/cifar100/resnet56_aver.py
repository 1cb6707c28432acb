# ResNet-56 distilled by AVER.
_base_ = './_base_/aver.py'

model = dict(student=dict(cfg_path='configs/cifar100/resnet56_baseline.py'))
