# RegNetX-200MF distilled by MTKD-RL with dynamic mixing.
_base_ = './_base_/mtkdrl_dynamic.py'

model = dict(student=dict(cfg_path='configs/cifar100/regnetx_200mf_baseline.py'))
