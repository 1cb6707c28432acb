# The weak teacher of another pool (DIGITS_POOL=weak): the Wide ResNet, but 40 % of its
# training labels are wrong, whatever TEACHER_LABELS says.
_base_ = './teacher_wide_resnet.py'

train_dataloader = dict(dataset=dict(ann_file='meta/student.txt'))
