# ImageNet, DeiT's schedule, three transformers as teachers. Their class tokens are
# compared; for maps of patch tokens: --cfg-options model.token_maps=True
_base_ = [
    '../datasets/imagenet_deit.py',
    '../schedules/imagenet_deit.py',
    '../pools/imagenet_transformers.py',
    '../distillation.py',
]

model = dict(
    type='mtkdrl_mm.MultiTeacherDistiller',
    teachers=_base_.teachers,
)
default_hooks = _base_.schedule_hooks
