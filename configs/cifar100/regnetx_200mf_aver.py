# RegNetX-200MF distilled by AVER.
_base_ = './_base_/aver.py'

model = dict(student=dict(cfg_path='configs/cifar100/regnetx_200mf_baseline.py'))
