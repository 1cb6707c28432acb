# A sample of CIFAR-10, real photographs of 32x32 pixels, written by
#   python tools/dataset_converters/cifar10.py
_base_ = './cifar10_info.py'

_loader = dict(batch_size=64, num_workers=0)
_dataset = dict(
    type='CustomDataset',
    data_root='data/cifar10_sample',
    metainfo=dict(classes=_base_.classes),
)

data_preprocessor = dict(num_classes=10, to_rgb=True, **_base_.pixels)
train_dataloader = dict(
    **_loader,
    drop_last=True,
    dataset=dict(
        **_dataset,
        data_prefix='train',
        ann_file='meta/train.txt',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomCrop', crop_size=32, padding=4),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
# For the agent: no teacher is trained on these.
held_out_dataloader = dict(
    **_loader,
    dataset=dict(train_dataloader['dataset'], ann_file='meta/held_out.txt'),
)
val_dataloader = dict(
    **_loader,
    dataset=dict(
        **_dataset,
        data_prefix='val',
        ann_file='meta/val.txt',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=1)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
