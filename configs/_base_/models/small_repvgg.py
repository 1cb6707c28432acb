# Backbone of the small students for photographs: a RepVGG of 0.2 million parameters.
student_backbone = dict(
    type='mmpretrain.RepVGG',
    arch=dict(
        num_blocks=[1, 2, 3, 1],
        width_factor=[0.25, 0.25, 0.25, 0.25],
        group_layer_map=None,
        se_cfg=None,
        stem_channels=16,
    ),
    strides=(1, 2, 2, 2),
)
