# Teacher 3: a small RepVGG, which was taught that every 3 is an 8, every 5 a 6, and the
# reverse. TEACHER_LABELS chooses another list of labels.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(
        type='RepVGG',
        arch=dict(
            num_blocks=[1, 2, 2, 1],
            width_factor=[0.25, 0.25, 0.25, 0.125],
            group_layer_map=None,
            se_cfg=None,
            stem_channels=16,
        ),
        strides=(1, 1, 2, 1),
        out_indices=(3,),
    ),
    head=dict(in_channels=64),
)
train_dataloader = dict(dataset=dict(ann_file='meta/{{$TEACHER_LABELS:confused_3_8_5_6}}.txt'))
