# ShuffleNetV2 distilled by AE-KD.
_base_ = './_base_/aekd.py'

model = dict(student=dict(cfg_path='configs/cifar100/shufflenetv2_baseline.py'))
