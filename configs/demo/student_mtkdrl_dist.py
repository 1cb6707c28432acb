# MTKD-RL + DIST.
_base_ = './student_mtkdrl.py'

model = dict(extra_losses=[dict(type='DIST', loss_weight=1.0)])
