# Cascade R-CNN with masks on COCO-2017 with a distilled ResNet-34.
_base_ = ['mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py', '../_base_/backbones/r34.py']

model = dict(backbone=_base_.backbone, neck=dict(in_channels=[64, 128, 256, 512]))
default_hooks = dict(label_check=dict(type='mtkdrl_mm.LabelCheckHook'))
