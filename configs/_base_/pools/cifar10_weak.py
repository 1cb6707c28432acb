# Four small teachers for CIFAR-10; "weak" was trained on 40 % wrong labels. With
# a good one in its place:
#   --cfg-options model.teachers.3.cfg_path=configs/cifar10/teacher_regnet.py \
#       model.teachers.3.name=regnet \
#       model.teachers.3.checkpoint=work_dirs/cifar10/teacher_regnet/epoch_12.pth
teachers = [
    dict(
        name=name,
        cfg_path=f'configs/cifar10/teacher_{name}.py',
        checkpoint=f'work_dirs/cifar10/teacher_{name}/epoch_12.pth',
    )
    for name in ('resnet', 'densenet', 'repvgg', 'weak')
]
