# RegNetX-200MF (student), 2.4 million parameters.
_base_ = './_base_/classifier.py'

model = dict(
    backbone=dict(type='mtkdrl_mm.CIFARRegNet', arch='regnetx_200mf'),
    head=dict(in_channels=368),
)
