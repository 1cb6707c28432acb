# RegNetX-200MF distilled by AE-KD.
_base_ = './_base_/aekd.py'

model = dict(student=dict(cfg_path='configs/cifar100/regnetx_200mf_baseline.py'))
