# The RegNetX, whose labels know fewer vehicles: airplanes
# are ships, and automobiles are trucks.
_base_ = './teacher_regnet.py'

train_dataloader = dict(dataset=dict(ann_file='meta/coarse_vehicles.txt'))
