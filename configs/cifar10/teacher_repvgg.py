# Teacher 3: a small RepVGG.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(
        type='RepVGG',
        arch=dict(
            num_blocks=[1, 2, 2, 1],
            width_factor=[0.5, 0.5, 0.5, 0.25],
            group_layer_map=None,
            se_cfg=None,
            stem_channels=32,
        ),
        strides=(1, 2, 2, 2),
        out_indices=(3,),
    ),
    head=dict(in_channels=128),
)
