# A small FCN for scenes of digits: background and the ten digits.
_base_ = '../../_base_/runtime.py'

default_scope = 'mmseg'
_loader = dict(num_workers=0, batch_size=8)
_dataset = dict(
    type='BaseSegDataset',  # Cityscapes' layout, other classes
    data_root='data/digit_scenes/cityscapes',
    img_suffix='_leftImg8bit.png',
    seg_map_suffix='_gtFine_labelTrainIds.png',
    metainfo=dict(
        classes=['background', *(str(digit) for digit in range(10))],
        palette=[[0, 0, 0], *([25 * digit, 250 - 25 * digit, 128] for digit in range(10))],
    ),
)
_norm = dict(type='BN', requires_grad=True)

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[78.0, 78.0, 78.0],
        std=[96.0, 96.0, 96.0],
        bgr_to_rgb=True,
        size=(96, 96),
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='mmpretrain.ResNet_CIFAR',
        depth=18,
        stem_channels=4,
        base_channels=4,
        zero_init_residual=False,
        out_indices=(1, 2, 3),
    ),
    neck=dict(type='FPN', in_channels=[8, 16, 32], out_channels=32, num_outs=3),
    decode_head=dict(
        type='FPNHead',
        in_channels=[32, 32, 32],
        in_index=[0, 1, 2],
        feature_strides=[2, 4, 8],
        channels=32,
        dropout_ratio=0.0,
        num_classes=11,
        norm_cfg=_norm,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
train_dataloader = dict(
    **_loader,
    dataset=dict(
        **_dataset,
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    **_loader,
    dataset=dict(
        **_dataset,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()

train_cfg = dict(type='mtkdrl_mm.ResumableEpochLoop', max_epochs=6, val_interval=6)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.01))
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, T_max=6, convert_to_iter_based=True)
default_hooks = dict(
    label_check=dict(type='mtkdrl_mm.LabelCheckHook'),
    logger=dict(interval=25),
    checkpoint=dict(interval=6, max_keep_ckpts=1),
    visualization=dict(_delete_=True, type='mmseg.SegVisualizationHook'),
)
visualizer = dict(
    _delete_=True, type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
)
