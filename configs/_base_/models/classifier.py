# A plain classifier; configs add its backbone, the length of its embedding and
# the number of classes.
model = dict(
    type='mmpretrain.ImageClassifier',
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', loss=dict(type='CrossEntropyLoss', loss_weight=1.0)),
)
