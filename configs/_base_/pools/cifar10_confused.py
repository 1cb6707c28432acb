# Teachers that confuse some classes: three of them cats with dogs and deer with
# horses, as if their lists of classes had been mixed up, the fourth airplanes with
# ships and automobiles with trucks. All four are right about birds and frogs.
_animals = [0, 1, 2, 5, 7, 3, 6, 4, 8, 9]
_vehicles = [8, 9, 2, 3, 4, 5, 6, 7, 0, 1]
teachers = [
    dict(
        name=name,
        cfg_path=f'mtkdrl_mm::cifar10/teacher_{name}.py',
        checkpoint=f'work_dirs/cifar10/teacher_{name}/epoch_12.pth',
        class_map=class_map,
        check_classes=False,  # the files' names are the right ones
    )
    for name, class_map in (
        ('resnet', _animals),
        ('densenet', _animals),
        ('repvgg', _animals),
        ('regnet', _vehicles),
    )
]
