# A small DeepLabV3+ for the same scenes of photographs as the detector.
_base_ = ['../demo/segmentor.py', '../_base_/datasets/cifar10_info.py', './_base_/student.py']

_dataset = dict(
    data_root='data/cifar10_scenes/cityscapes',
    metainfo=dict(classes=['background', *_base_.classes]),
)

model = dict(
    data_preprocessor=_base_.pixels,
    backbone=dict(_delete_=True, **_base_.distilled_backbone),
    decode_head=dict(in_channels=128, c1_in_channels=32),
)
train_dataloader = dict(dataset=_dataset)
val_dataloader = dict(dataset=_dataset)
test_dataloader = val_dataloader

optim_wrapper = dict(
    optimizer=dict(lr=2e-3), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1)))
)
