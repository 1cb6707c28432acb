# A small DeepLabV3+ for scenes of digits: background and the ten digits. BACKBONE,
# RUN_SEED and DEMO_STUDENTS choose the backbone, as for the detector.
_base_ = '../_base_/runtime.py'

# Part of the work dir's name.
variant = '{{$BACKBONE:mtkdrl}}'
default_scope = 'mmseg'
_loader = dict(num_workers=0, batch_size=4)
_dataset = dict(
    type='BaseSegDataset',  # Cityscapes' layout, other classes
    data_root='data/digit_scenes/cityscapes',
    img_suffix='_leftImg8bit.png',
    seg_map_suffix='_gtFine_labelTrainIds.png',
    metainfo=dict(
        classes=['background', *(str(digit) for digit in range(10))],
        palette=[
            [0, 0, 0],
            [31, 119, 180],
            [255, 127, 14],
            [44, 160, 44],
            [214, 39, 40],
            [148, 103, 189],
            [140, 86, 75],
            [227, 119, 194],
            [160, 160, 160],
            [188, 189, 34],
            [23, 190, 207],
        ],
    ),
)

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[78.0, 78.0, 78.0],
        std=[96.0, 96.0, 96.0],
        bgr_to_rgb=True,
        size=(48, 48),
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='mmpretrain.ResNet_CIFAR',
        depth=18,
        stem_channels=4,
        base_channels=4,
        strides=(1, 1, 2, 2),
        zero_init_residual=False,
        out_indices=(1, 2, 3),
        init_cfg=dict(
            type='mtkdrl_mm.DistilledBackbone',
            checkpoint='{{$DEMO_STUDENTS:work_dirs/demo}}/{{$BACKBONE:mtkdrl}}/seed_{{$RUN_SEED:0}}/epoch_{{$STUDENT_EPOCHS:25}}.pth',
        ),
    ),
    decode_head=dict(
        type='DepthwiseSeparableASPPHead',
        in_channels=32,
        in_index=2,
        c1_in_channels=8,
        c1_channels=16,
        channels=64,
        dilations=(1, 2, 4),
        dropout_ratio=0.0,
        num_classes=11,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        # Most pixels are background.
        loss_decode=dict(type='CrossEntropyLoss', class_weight=[0.2, *[1.0] * 10]),
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
            dict(type='Resize', scale=(48, 48)),
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
            dict(type='Resize', scale=(48, 48)),
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

train_cfg = dict(type='mtkdrl_mm.ResumableEpochLoop', max_epochs=12, val_interval=12)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=5e-3, weight_decay=0.01))
param_scheduler = dict(
    type='CosineAnnealingLR', by_epoch=True, T_max=12, convert_to_iter_based=True
)
default_hooks = dict(
    label_check=dict(type='mtkdrl_mm.LabelCheckHook'),
    logger=dict(interval=50),
    checkpoint=dict(interval=12, max_keep_ckpts=1),
    visualization=dict(_delete_=True, type='mmseg.SegVisualizationHook'),
)
visualizer = dict(
    _delete_=True, type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
)
