# Real handwritten digits, 8x8 pixels, shown to the networks at 16x16.
# `make demo` writes them with tools/dataset_converters/digits.py.
_loader = dict(batch_size=32, num_workers=0)
_load = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=16)]
_dataset = dict(
    type='CustomDataset',
    data_root='data/digits',
    metainfo=dict(classes=[str(digit) for digit in range(10)]),
)

data_preprocessor = dict(
    num_classes=10, mean=[78.0, 78.0, 78.0], std=[96.0, 96.0, 96.0], to_rgb=True
)
train_dataloader = dict(
    **_loader,
    drop_last=True,
    dataset=dict(
        **_dataset,
        data_prefix='train',
        ann_file='meta/train.txt',
        pipeline=[
            *_load,
            dict(type='RandomCrop', crop_size=16, padding=2),
            dict(type='PackInputs'),
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
# For the agent: neither student nor teachers are trained on these.
held_out_dataloader = dict(
    **_loader,
    dataset=dict(train_dataloader['dataset'], ann_file='meta/held_out.txt'),
)
val_dataloader = dict(
    **_loader,
    dataset=dict(**_dataset, data_prefix='val', pipeline=[*_load, dict(type='PackInputs')]),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=1)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
