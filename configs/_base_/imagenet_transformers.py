# Distillation on ImageNet from three transformers, by DeiT's recipe.
_base_ = ['./pool_imagenet_transformers.py', './distillation.py', './deit_recipe.py']

default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=3, save_best='auto'))
# Class tokens are compared. For maps of patch tokens: model.token_maps=True
