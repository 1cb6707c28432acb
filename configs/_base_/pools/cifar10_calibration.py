# Four small teachers for CIFAR-10 that differ in how sharp their probabilities are:
# "smoothed" is underconfident, "overconfident" is what its name says.
teachers = [
    dict(
        name=name,
        cfg_path=f'mtkdrl_mm::cifar10/teacher_{name}.py',
        checkpoint=f'work_dirs/cifar10/teacher_{name}/epoch_{epochs}.pth',
    )
    for name, epochs in (('smoothed', 12), ('overconfident', 60), ('densenet', 12), ('repvgg', 12))
]
