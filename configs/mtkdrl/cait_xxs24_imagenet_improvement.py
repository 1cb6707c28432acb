# CaiT-XXS24 distilled by mtkdrl_improvement.
_base_ = './deit_tiny_imagenet_improvement.py'

model = dict(student=dict(cfg_path='mtkdrl_mm::baseline/cait_xxs24_imagenet.py'))
