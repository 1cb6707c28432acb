# ImageNet with DeiT's augmentations, 256 images per GPU. Mixup, CutMix and label
# smoothing belong to the student's config.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

train_dataloader = dict(batch_size=256)
