# Fifty classes of Tiny-ImageNet: a small RepVGG learns from three EfficientNet-Lites.
_base_ = [
    '../datasets/tiny_imagenet.py',
    '../schedules/tiny_imagenet.py',
    '../pools/efficientnet_lite.py',
    '../distillation.py',
]

model = dict(
    type='mtkdrl_mm.MultiTeacherDistiller',
    student=dict(cfg_path='mtkdrl_mm::tiny_imagenet/student_baseline.py'),
    teachers=_base_.teachers,
)
default_hooks = _base_.schedule_hooks
