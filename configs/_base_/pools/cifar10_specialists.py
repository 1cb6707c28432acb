# Two teachers for all classes of CIFAR-10, and two specialists for five classes each.
teachers = [
    dict(
        name=name,
        cfg_path=f'mtkdrl_mm::cifar10/teacher_{name}.py',
        checkpoint=f'work_dirs/cifar10/teacher_{name}/epoch_12.pth',
    )
    for name in ('resnet', 'regnet', 'specialist_a', 'specialist_b')
]
