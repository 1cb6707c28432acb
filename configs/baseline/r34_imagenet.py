# ResNet-34 trained without teachers, on the same data and schedule.
_base_ = './r18_imagenet.py'

model = dict(backbone=dict(depth=34))
