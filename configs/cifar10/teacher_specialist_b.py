# A specialist for dogs to trucks: the RepVGG, trained on all their images and on every
# 20th of the other classes.
_base_ = './teacher_repvgg.py'

train_dataloader = dict(dataset=dict(ann_file='meta/specialist_b.txt'))
