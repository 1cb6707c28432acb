# ShuffleNetV2 distilled by EB-KD.
_base_ = './_base_/ebkd.py'

model = dict(student=dict(cfg_path='configs/cifar100/shufflenetv2_baseline.py'))
