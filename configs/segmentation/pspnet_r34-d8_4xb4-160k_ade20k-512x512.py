# PSPNet on ADE20K with a distilled ResNet-34, dilated, with the plain stem.
_base_ = ['mmseg::pspnet/pspnet_r50-d8_4xb4-160k_ade20k-512x512.py', '../_base_/backbones/r34.py']

model = _base_.segmentor
default_hooks = dict(label_check=dict(type='mtkdrl_mm.LabelCheckHook'))
