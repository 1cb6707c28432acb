# RegNetX-200MF distilled by EB-KD.
_base_ = './_base_/ebkd.py'

model = dict(student=dict(cfg_path='configs/cifar100/regnetx_200mf_baseline.py'))
