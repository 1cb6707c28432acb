# A teacher that knows the student's images by heart: the RepVGG, trained on nothing
# else, without augmentation and for long.
_base_ = './teacher_repvgg.py'

train_cfg = dict(max_epochs=40, val_interval=40)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, T_max=40, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(interval=40))
train_dataloader = dict(
    dataset=dict(
        ann_file='meta/student.txt',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    )
)
