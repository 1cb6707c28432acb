# ShuffleNetV2 distilled by MTKD-RL as published.
_base_ = './_base_/mtkdrl_paper.py'

model = dict(student=dict(cfg_path='configs/cifar100/shufflenetv2_baseline.py'))
