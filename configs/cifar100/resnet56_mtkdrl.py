# ResNet-56 distilled by MTKD-RL.
_base_ = './_base_/mtkdrl.py'

model = dict(student=dict(cfg_path='configs/cifar100/resnet56_baseline.py'))
