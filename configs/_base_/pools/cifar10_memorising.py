# Four small teachers for CIFAR-10; "memorising" knows the student's images by heart and
# is the worst on others.
teachers = [
    dict(
        name=name,
        cfg_path=f'mtkdrl_mm::cifar10/teacher_{name}.py',
        checkpoint=f'work_dirs/cifar10/teacher_{name}/epoch_{epochs}.pth',
    )
    for name, epochs in (('resnet', 12), ('densenet', 12), ('repvgg', 12), ('memorising', 40))
]
