# ResNet-56 distilled by EB-KD.
_base_ = './_base_/ebkd.py'

model = dict(student=dict(cfg_path='configs/cifar100/resnet56_baseline.py'))
