# MTKD-RL + DIST: relations within and between classes on top.
_base_ = './r18_imagenet.py'

model = dict(extra_losses=[dict(type='DIST', beta=1.0, gamma=1.0, loss_weight=1.0)])
