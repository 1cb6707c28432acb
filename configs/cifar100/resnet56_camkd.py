# ResNet-56 distilled by CA-MKD.
_base_ = './_base_/camkd.py'

model = dict(student=dict(cfg_path='configs/cifar100/resnet56_baseline.py'))
