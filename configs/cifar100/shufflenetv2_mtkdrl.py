# ShuffleNetV2 distilled by MTKD-RL.
_base_ = './_base_/mtkdrl.py'

model = dict(student=dict(cfg_path='configs/cifar100/shufflenetv2_baseline.py'))
