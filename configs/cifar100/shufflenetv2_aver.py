# ShuffleNetV2 distilled by AVER.
_base_ = './_base_/aver.py'

model = dict(student=dict(cfg_path='configs/cifar100/shufflenetv2_baseline.py'))
