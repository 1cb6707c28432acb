# Real handwritten digits, 8x8 pixels, shown to the networks at 32x32.
# `make demo` writes them with tools/dataset_converters/digits.py.
_base_ = '../../_base_/runtime.py'

_root = 'data/digits'
_load = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=32)]
_loader = dict(batch_size=32, num_workers=0)

data_preprocessor = dict(
    num_classes=10, mean=[78.0, 78.0, 78.0], std=[96.0, 96.0, 96.0], to_rgb=True
)
train_dataloader = dict(
    **_loader,
    drop_last=True,
    dataset=dict(
        type='CustomDataset',
        data_root=_root,
        data_prefix='train',
        metainfo=dict(classes=[str(digit) for digit in range(10)]),
        pipeline=[
            *_load,
            dict(type='RandomCrop', crop_size=32, padding=4),
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
        metainfo=dict(classes=[str(digit) for digit in range(10)]),
        pipeline=[*_load, dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=1)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()

train_cfg = dict(type='mtkdrl_mm.ResumableEpochLoop', max_epochs=30, val_interval=30)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=5e-3, weight_decay=0.01))
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, T_max=30)
default_hooks = dict(logger=dict(interval=14), checkpoint=dict(interval=30, max_keep_ckpts=1))
