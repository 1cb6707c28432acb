# Teacher 4: the same RegNetX, taught wrongly. 40 % of its training labels are
# wrong.
_base_ = './teacher_regnet.py'

train_dataloader = dict(dataset=dict(ann_file='meta/train_noisy.txt'))
