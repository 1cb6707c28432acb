# DeiT-Tiny distilled with equal weights from CaiT-S24, DeiT-Small and DeiT-Base.
_base_ = '../_base_/imagenet_transformers.py'

model = dict(
    student=dict(cfg_path='mmpretrain::deit/deit-tiny_4xb256_in1k.py'),
    weighting=dict(type='AVER'),
)
