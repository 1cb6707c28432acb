# The ResNet, whose labels know fewer animals: cats are
# dogs, and deer are horses.
_base_ = './teacher_resnet.py'

train_dataloader = dict(dataset=dict(ann_file='meta/coarse_animals.txt'))
