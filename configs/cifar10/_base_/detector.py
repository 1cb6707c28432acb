# A small RetinaNet for scenes of photographs, from a student's backbone:
#   python tools/dataset_converters/make_scenes.py --photographs data/cifar10_sample
_base_ = '../../demo/_base_/detector.py'

_root = 'data/cifar10_scenes/coco/'
_classes = dict(
    classes=[
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
    neck=dict(in_channels=[32, 64, 128]),
    bbox_head=dict(anchor_generator=dict(octave_base_scale=4, strides=[4, 8, 16])),
)
train_dataloader = dict(dataset=dict(data_root=_root, metainfo=_classes))
val_dataloader = dict(dataset=dict(data_root=_root, metainfo=_classes))
val_evaluator = dict(ann_file=_root + 'annotations/instances_val.json')
test_dataloader = val_dataloader
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=10, val_interval=10)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))))
param_scheduler = dict(T_max=10)
default_hooks = dict(checkpoint=dict(interval=10))
