# A small RetinaNet for scenes of digits, from the student's backbone; `make demo`
# writes the scenes with tools/dataset_converters/make_scenes.py. BACKBONE is the
# method that trained the student, RUN_SEED the seed, DEMO_STUDENTS the folder of
# the trainings; from scratch: --cfg-options model.backbone.init_cfg=None
_base_ = '../_base_/runtime.py'

# Part of the work dir's name.
variant = '{{$BACKBONE:mtkdrl}}'
default_scope = 'mmdet'
_root = 'data/digit_scenes/coco/'
_classes = dict(classes=[str(digit) for digit in range(10)])
_loader = dict(num_workers=0, batch_size=4)

model = dict(
    type='RetinaNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[78.0, 78.0, 78.0], std=[96.0, 96.0, 96.0], bgr_to_rgb=True
    ),
    backbone=dict(
        type='mmpretrain.ResNet_CIFAR',
        depth=18,
        stem_channels=4,
        base_channels=4,
        strides=(1, 1, 2, 2),
        zero_init_residual=False,
        out_indices=(2, 3),
        init_cfg=dict(
            type='mtkdrl_mm.DistilledBackbone',
            checkpoint='{{$DEMO_STUDENTS:work_dirs/demo}}/{{$BACKBONE:mtkdrl}}/seed_{{$RUN_SEED:0}}/epoch_{{$STUDENT_EPOCHS:25}}.pth',
        ),
    ),
    neck=dict(type='FPN', in_channels=[16, 32], out_channels=32, num_outs=2),
    bbox_head=dict(
        type='RetinaHead',
        num_classes=10,
        in_channels=32,
        stacked_convs=1,
        feat_channels=32,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=5,
            scales_per_octave=2,
            ratios=[1.0, 2.0],
            strides=[2, 4],
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type='MaxIoUAssigner',
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
            ignore_iof_thr=-1,
        ),
        sampler=dict(type='PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=200,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=20,
    ),
)
train_dataloader = dict(
    **_loader,
    dataset=dict(
        type='CocoDataset',
        data_root=_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        metainfo=_classes,
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=(48, 48)),
            dict(type='PackDetInputs'),
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    **_loader,
    dataset=dict(
        type='CocoDataset',
        data_root=_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        metainfo=_classes,
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(48, 48)),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(
                type='PackDetInputs',
                meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
            ),
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(
    type='CocoMetric', ann_file=_root + 'annotations/instances_val.json', metric='bbox'
)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()

train_cfg = dict(type='mtkdrl_mm.ResumableEpochLoop', max_epochs=5, val_interval=5)
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.01), clip_grad=dict(max_norm=1.0)
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, T_max=5, convert_to_iter_based=True)
default_hooks = dict(
    label_check=dict(type='mtkdrl_mm.LabelCheckHook'),
    logger=dict(interval=50),
    checkpoint=dict(interval=5, max_keep_ckpts=1),
    visualization=dict(_delete_=True, type='mmdet.DetVisualizationHook'),
)
visualizer = dict(
    _delete_=True, type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
)
