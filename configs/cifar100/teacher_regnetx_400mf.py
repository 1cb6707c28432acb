# Teacher 2: RegNetX-400MF, 4.8 million parameters.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(type='mtkdrl_mm.CIFARRegNet', arch='regnetx_400mf'),
    head=dict(in_channels=384),
)
