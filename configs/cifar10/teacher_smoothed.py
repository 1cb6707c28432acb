# An underconfident teacher: the DenseNet, trained with much label smoothing. Its targets
# are 0.73 for the right class and 0.03 for each other, so its logits are flat.
_base_ = './teacher_densenet.py'

model = dict(
    head=dict(
        loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.3, num_classes=10)
    )
)
