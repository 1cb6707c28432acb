# Teacher 4: a small SE-ResNeXt, which was taught that every 1 is a 7, every 4 a 9, and
# the reverse. TEACHER_LABELS chooses another list of labels.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(
        type='SEResNeXt', depth=50, stem_channels=8, base_channels=8, groups=4, width_per_group=4
    ),
    head=dict(in_channels=256),
)
train_dataloader = dict(dataset=dict(ann_file='meta/{{$TEACHER_LABELS:confused_1_7_4_9}}.txt'))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4),
    clip_grad=dict(max_norm=5.0),
)
