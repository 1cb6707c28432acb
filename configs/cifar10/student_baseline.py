# The student without teachers: a RepVGG of 0.2 million parameters.
_base_ = ['./_base_/classifier.py', './_base_/student.py']

model = dict(backbone=dict(**_base_.student_backbone, out_indices=(3,)), head=dict(in_channels=128))
train_dataloader = dict(dataset=dict(ann_file='meta/student.txt'))
