# MobileNetV2 distilled by AVER.
_base_ = './_base_/aver.py'

model = dict(student=dict(cfg_path='configs/cifar100/mobilenetv2_baseline.py'))
