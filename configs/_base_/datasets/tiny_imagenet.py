# Fifty classes of Tiny-ImageNet, photographs of 64x64 pixels, written by
#   python tools/dataset_converters/tiny_imagenet.py --source SOURCE --classes 50
_loader = dict(batch_size=64, num_workers=1, persistent_workers=True)
_dataset = dict(type='CustomDataset', data_root='data/tiny_imagenet')

data_preprocessor = dict(
    num_classes=50, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
train_dataloader = dict(
    **_loader,
    drop_last=True,
    dataset=dict(
        **_dataset,
        data_prefix='train',
        ann_file='meta/student.txt',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomCrop', crop_size=56),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    **_loader,
    dataset=dict(
        **_dataset,
        data_prefix='val',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='CenterCrop', crop_size=56),
            dict(type='PackInputs'),
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=1)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
