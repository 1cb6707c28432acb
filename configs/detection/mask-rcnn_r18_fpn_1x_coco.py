# Mask R-CNN on COCO-2017 with a distilled ResNet-18.
_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '../_base_/backbones/r18.py']

model = _base_.detector
default_hooks = dict(label_check=dict(type='mtkdrl_mm.LabelCheckHook'))
