# RegNetX-200MF distilled by MMKD.
_base_ = './_base_/mmkd.py'

model = dict(student=dict(cfg_path='configs/cifar100/regnetx_200mf_baseline.py'))
