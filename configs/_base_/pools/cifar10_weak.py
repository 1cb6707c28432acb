# Four small teachers for CIFAR-10; "weak" was trained on 40 % wrong labels.
teachers = [
    dict(
        name=name,
        cfg_path=f'mtkdrl_mm::cifar10/teacher_{name}.py',
        checkpoint=f'work_dirs/cifar10/teacher_{name}/epoch_12.pth',
    )
    for name in ('resnet', 'densenet', 'repvgg', 'weak')
]
