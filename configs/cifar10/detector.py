# A small RetinaNet for scenes of photographs, from the student's backbone:
#   python tools/dataset_converters/make_scenes.py --photographs data/cifar10_sample
_base_ = ['../demo/detector.py', '../_base_/datasets/cifar10_info.py', './_base_/student.py']

_dataset = dict(data_root='data/cifar10_scenes/coco/', metainfo=dict(classes=_base_.classes))

model = dict(
    data_preprocessor=_base_.pixels,
    backbone=dict(_delete_=True, **_base_.distilled_backbone),
    neck=dict(in_channels=[32, 64, 128], num_outs=3),
    bbox_head=dict(anchor_generator=dict(octave_base_scale=4, strides=[4, 8, 16])),
)
train_dataloader = dict(dataset=_dataset)
val_dataloader = dict(dataset=_dataset)
val_evaluator = dict(ann_file='data/cifar10_scenes/coco/annotations/instances_val.json')
test_dataloader = val_dataloader
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=10, val_interval=10)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))))
param_scheduler = dict(T_max=10)
default_hooks = dict(checkpoint=dict(interval=10))
