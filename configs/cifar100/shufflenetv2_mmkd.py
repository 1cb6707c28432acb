# ShuffleNetV2 distilled by MMKD.
_base_ = './_base_/mmkd.py'

model = dict(student=dict(cfg_path='configs/cifar100/shufflenetv2_baseline.py'))
