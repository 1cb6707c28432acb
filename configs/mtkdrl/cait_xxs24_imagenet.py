# CaiT-XXS24 distilled by MTKD-RL, as published.
_base_ = './deit_tiny_imagenet.py'

model = dict(student=dict(cfg_path='mtkdrl_mm::baseline/cait_xxs24_imagenet.py'))
