# ResNet-56 distilled by MTKD-RL with dynamic mixing.
_base_ = './_base_/mtkdrl_dynamic.py'

model = dict(student=dict(cfg_path='configs/cifar100/resnet56_baseline.py'))
