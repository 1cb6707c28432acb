# ShuffleNetV2 distilled by CA-MKD.
_base_ = './_base_/camkd.py'

model = dict(student=dict(cfg_path='configs/cifar100/shufflenetv2_baseline.py'))
