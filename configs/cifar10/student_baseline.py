# The student without teachers: a RepVGG of 0.2 million parameters.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(
        type='RepVGG',
        arch=dict(
            num_blocks=[1, 2, 3, 1],
            width_factor=[0.25, 0.25, 0.25, 0.25],
            group_layer_map=None,
            se_cfg=None,
            stem_channels=16,
        ),
        strides=(1, 2, 2, 2),
        out_indices=(3,),
    ),
    head=dict(in_channels=128),
)
train_dataloader = dict(dataset=dict(ann_file='meta/student.txt'))
