# CaiT-XXS24 distilled by mtkdrl_stacking.
_base_ = './deit_tiny_imagenet_stacking.py'

model = dict(student=dict(cfg_path='mtkdrl_mm::baseline/cait_xxs24_imagenet.py'))
