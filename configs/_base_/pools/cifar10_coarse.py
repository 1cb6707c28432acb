# Teachers whose labels were coarser than the student's: three know no cats and deer, which
# are dogs and horses to them, the fourth no airplanes and automobiles.
teachers = [
    dict(
        name=name,
        cfg_path=f'mtkdrl_mm::cifar10/teacher_{name}.py',
        checkpoint=f'work_dirs/cifar10/teacher_{name}/epoch_12.pth',
    )
    for name in ('coarse_resnet', 'coarse_densenet', 'coarse_repvgg', 'coarse_regnet')
]
