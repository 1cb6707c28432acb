# ImageNet in mmpretrain's layout and preprocessing, 32 images per GPU.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs32.py'
