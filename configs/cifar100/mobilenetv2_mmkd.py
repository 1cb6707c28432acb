# MobileNetV2 distilled by MMKD.
_base_ = './_base_/mmkd.py'

model = dict(student=dict(cfg_path='configs/cifar100/mobilenetv2_baseline.py'))
