# RegNetX-200MF distilled by MTKD-RL.
_base_ = './_base_/mtkdrl.py'

model = dict(student=dict(cfg_path='configs/cifar100/regnetx_200mf_baseline.py'))
