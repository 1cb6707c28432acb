# An overconfident teacher: the ResNet, trained five times as long on the same images with
# the same augmentation and loss. Once nearly all of them are classified correctly, the
# cross entropy falls further only by larger logits, which are too sharp on other images.
# It also fits the student's images more closely than a teacher of 12 epochs.
_base_ = './teacher_resnet.py'

train_cfg = dict(max_epochs=60, val_interval=60)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, T_max=60, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(interval=60))
