# A small DeepLabV3+ for the same scenes of photographs as the detector.
_base_ = '../../demo/_base_/segmentor.py'

_dataset = dict(
    data_root='data/cifar10_scenes/cityscapes',
    metainfo=dict(
        classes=[
            'background',
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
    ),
)

model = dict(
    data_preprocessor=dict(mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7]),
    backbone=dict(
        _delete_=True,
        type='mmpretrain.RepVGG',
        arch=dict(
            num_blocks=[1, 2, 3, 1],
            width_factor=[0.25, 0.25, 0.25, 0.25],
            group_layer_map=None,
            se_cfg=None,
            stem_channels=16,
        ),
        strides=(1, 2, 2, 2),
        out_indices=(1, 2, 3),
        # Few scenes: what the backbone has learnt is changed slowly.
        norm_eval=True,
    ),
    decode_head=dict(in_channels=128, c1_in_channels=32),
)
train_dataloader = dict(dataset=_dataset)
val_dataloader = dict(dataset=_dataset)
test_dataloader = val_dataloader

optim_wrapper = dict(
    optimizer=dict(lr=2e-3), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1)))
)
