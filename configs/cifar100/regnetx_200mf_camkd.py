# RegNetX-200MF distilled by CA-MKD.
_base_ = './_base_/camkd.py'

model = dict(student=dict(cfg_path='configs/cifar100/regnetx_200mf_baseline.py'))
