# The pool of four, one of them taught wrongly, and the student that learns
# from it. For the clean pool:
#   --cfg-options model.teachers.3.cfg_path=configs/cifar10/teacher_regnet.py \
#       model.teachers.3.name=regnet \
#       model.teachers.3.checkpoint=work_dirs/cifar10/teacher_regnet/epoch_12.pth
_base_ = './cifar10.py'

model = dict(
    type='mtkdrl_mm.MultiTeacherDistiller',
    # Maps of 2x2 positions give small gradients: AVER gains from more than the usual 5.
    feature_loss_weight=20.0,
    student=dict(cfg_path='configs/cifar10/student_baseline.py'),
    teachers=[
        dict(
            name=name,
            cfg_path=f'configs/cifar10/teacher_{name}.py',
            checkpoint=f'work_dirs/cifar10/teacher_{name}/epoch_12.pth',
        )
        for name in ('resnet', 'densenet', 'repvgg', 'weak')
    ],
)
train_dataloader = dict(dataset=dict(ann_file='meta/student.txt'))
default_hooks = dict(
    teacher_check=dict(type='mtkdrl_mm.TeacherCheckHook', num_batches=8),
    teacher_weights=dict(type='mtkdrl_mm.TeacherWeightHook'),
    finite_loss=dict(type='mtkdrl_mm.FiniteLossHook'),
)
