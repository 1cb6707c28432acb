# A sample of CIFAR-10, real photographs of 32x32 pixels, written by
#   python tools/dataset_converters/cifar10.py
_base_ = '../../_base_/runtime.py'

_root = 'data/cifar10_sample'
_classes = [
    'airplane',
    'automobile',
    'bird',
    'cat',
    'deer',
    'dog',
    'frog',
    'horse',
    'ship',
    'truck',
]
_loader = dict(batch_size=64, num_workers=0)

data_preprocessor = dict(
    num_classes=10, mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7], to_rgb=True
)
train_dataloader = dict(
    **_loader,
    drop_last=True,
    dataset=dict(
        type='CustomDataset',
        data_root=_root,
        data_prefix='train',
        ann_file='meta/train.txt',
        metainfo=dict(classes=_classes),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomCrop', crop_size=32, padding=4),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    **_loader,
    dataset=dict(
        type='CustomDataset',
        data_root=_root,
        data_prefix='val',
        ann_file='meta/val.txt',
        metainfo=dict(classes=_classes),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=1)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()

train_cfg = dict(type='mtkdrl_mm.ResumableEpochLoop', max_epochs=12, val_interval=12)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, T_max=12, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=12, max_keep_ckpts=1))
