# PSPNet on Cityscapes with a distilled ResNet-18, dilated, with the plain stem.
_base_ = [
    'mmseg::pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/backbones/r18.py',
]

model = _base_.segmentor
default_hooks = dict(label_check=dict(type='mtkdrl_mm.LabelCheckHook'))
