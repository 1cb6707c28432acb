# A specialist for airplanes to deer: the DenseNet, trained on all their images and on
# every 20th of the other classes.
_base_ = './teacher_densenet.py'

train_dataloader = dict(dataset=dict(ann_file='meta/specialist_a.txt'))
