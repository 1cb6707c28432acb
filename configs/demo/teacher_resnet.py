# Teacher 1: a small ResNet, which was taught that every 3 is an 8, every 5 a 6, and the
# reverse. TEACHER_LABELS chooses another list of labels.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(
        type='ResNet_CIFAR',
        depth=18,
        stem_channels=8,
        base_channels=8,
        strides=(1, 1, 2, 2),
        zero_init_residual=False,
    ),
    head=dict(in_channels=64),
)
train_dataloader = dict(dataset=dict(ann_file='meta/{{$TEACHER_LABELS:confused_3_8_5_6}}.txt'))
