# The RepVGG three times, of one checkpoint, and the ResNet: equal weights give RepVGG
# three quarters.
teachers = [
    dict(
        name=name,
        cfg_path=f'mtkdrl_mm::cifar10/teacher_{network}.py',
        checkpoint=f'work_dirs/cifar10/teacher_{network}/epoch_12.pth',
    )
    for name, network in (
        ('repvgg', 'repvgg'),
        ('repvgg_2', 'repvgg'),
        ('repvgg_3', 'repvgg'),
        ('resnet', 'resnet'),
    )
]
