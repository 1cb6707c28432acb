# The paper's four teachers, which are trained by the configs teacher_*.py.
_base_ = ['./cifar100.py', '../../_base_/distillation.py']

model = dict(
    type='mtkdrl_mm.MultiTeacherDistiller',
    teachers=[
        dict(
            name=name,
            cfg_path=f'configs/cifar100/teacher_{name}.py',
            checkpoint=f'work_dirs/cifar100/teacher_{name}/epoch_240.pth',
        )
        for name in ('regnety_400mf', 'regnetx_400mf', 'resnet32x4', 'wrn_28_4')
    ],
)
default_hooks = dict(
    checkpoint=dict(interval=5, max_keep_ckpts=1), teacher_check=dict(num_batches=16)
)
