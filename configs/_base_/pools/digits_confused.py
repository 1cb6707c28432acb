# Four small teachers that confuse some digits, as they were taught to: three of them
# 3 with 8 and 5 with 6, the fourth 1 with 7 and 4 with 9. All four are right about 0
# and 2.
teachers = [
    dict(
        name=name,
        cfg_path=f'mtkdrl_mm::demo/teacher_{name}.py',
        checkpoint=f'work_dirs/demo/teacher_{name}/seed_0/epoch_25.pth',
    )
    for name in ('resnet', 'densenet', 'repvgg', 'wide_resnet')
]
