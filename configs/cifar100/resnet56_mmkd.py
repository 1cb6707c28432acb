# ResNet-56 distilled by MMKD.
_base_ = './_base_/mmkd.py'

model = dict(student=dict(cfg_path='configs/cifar100/resnet56_baseline.py'))
