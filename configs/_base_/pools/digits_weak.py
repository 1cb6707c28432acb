# Four small teachers for digits; "weak" was trained on 40 % wrong labels.
teachers = [
    dict(
        name=name,
        cfg_path=f'mtkdrl_mm::demo/teacher_{name}.py',
        checkpoint=f'work_dirs/digits_weak/teacher_{name}/epoch_25.pth',
    )
    for name in ('resnet', 'densenet', 'repvgg', 'weak')
]
