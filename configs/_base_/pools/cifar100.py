# The paper's four CIFAR-100 teachers, trained by configs/cifar100/teacher_*.py.
teachers = [
    dict(
        name=name,
        cfg_path=f'mtkdrl_mm::cifar100/teacher_{name}.py',
        checkpoint=f'work_dirs/cifar100/teacher_{name}/epoch_240.pth',
    )
    for name in ('regnety_400mf', 'regnetx_400mf', 'resnet32x4', 'wrn_28_4')
]
