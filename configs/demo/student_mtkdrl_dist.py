# MTKD-RL with DIST, a loss on relations within and between classes.
_base_ = './student_mtkdrl.py'

model = dict(extra_losses=[dict(type='DIST', loss_weight=1.0)])
