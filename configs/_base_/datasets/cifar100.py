# CIFAR-100, 64 images per GPU. mmpretrain downloads it to data/cifar100 unless
# it is there.
_base_ = 'mmpretrain::_base_/datasets/cifar100_bs16.py'

train_dataloader = dict(batch_size=64)
val_dataloader = dict(batch_size=64)
test_dataloader = val_dataloader
val_cfg = dict()
test_cfg = dict()
