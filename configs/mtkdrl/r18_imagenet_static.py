# ResNet-18 distilled by mtkdrl_static, of this project: learned weights, the same for all images.
_base_ = './r18_imagenet_stacking.py'

model = dict(weighting=dict(agent=dict(type='StaticAgent')))
