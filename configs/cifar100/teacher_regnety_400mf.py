# Teacher 1: RegNetY-400MF, 5.7 million parameters.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(type='mtkdrl_mm.CIFARRegNet', arch='regnety_400mf'),
    head=dict(in_channels=384),
)
