# Teacher 4: a small Wide ResNet, which was taught that every 1 is a 7, every 4 a 9, and
# the reverse. TEACHER_LABELS chooses another list of labels.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(type='mtkdrl_mm.CIFARWideResNet', depth=10, widen_factor=1),
    head=dict(in_channels=64),
)
train_dataloader = dict(dataset=dict(ann_file='meta/{{$TEACHER_LABELS:confused_1_7_4_9}}.txt'))
