# Teacher 2: a small DenseNet, which was taught that every 3 is an 8, every 5 a 6, and the
# reverse. TEACHER_LABELS chooses another list of labels.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(type='DenseNet', arch=dict(growth_rate=12, depths=[3, 4], init_channels=24)),
    head=dict(in_channels=78),
)
train_dataloader = dict(dataset=dict(ann_file='meta/{{$TEACHER_LABELS:confused_3_8_5_6}}.txt'))
