# Teacher 3: a small MobileNetV2, which was taught that every 3 is an 8, every 5 a 6, and the
# reverse. TEACHER_LABELS chooses another list of labels.
_base_ = './_base_/classifier.py'

model = dict(backbone=dict(type='MobileNetV2', widen_factor=0.25), head=dict(in_channels=1280))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4),
    clip_grad=dict(max_norm=5.0),
)
train_dataloader = dict(dataset=dict(ann_file='meta/{{$TEACHER_LABELS:confused_3_8_5_6}}.txt'))
