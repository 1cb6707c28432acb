# CaiT-XXS24 distilled with CA-MKD's weights from CaiT-S24, DeiT-Small and DeiT-Base.
_base_ = '../_base_/imagenet_cait_xxs24.py'

model = dict(weighting=dict(type='CAMKD'))
