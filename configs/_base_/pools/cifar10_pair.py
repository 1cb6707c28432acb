# The RepVGG and the ResNet: the pool "duplicates" with one copy of the RepVGG.
teachers = [
    dict(
        name=name,
        cfg_path=f'mtkdrl_mm::cifar10/teacher_{name}.py',
        checkpoint=f'work_dirs/cifar10/teacher_{name}/epoch_12.pth',
    )
    for name in ('repvgg', 'resnet')
]
