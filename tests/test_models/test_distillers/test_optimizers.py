# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Settings of parameters by name: the student's are those of mmpretrain's recipes."""

import pytest
from mmengine.optim import build_optim_wrapper

from mtkdrl_mm.utils import InputError


def groups(model, **cfg):
    """Learning rate and weight decay of every parameter, by its name."""
    optimizer = dict(type='AdamW', lr=1.0, weight_decay=0.5)
    wrapper = build_optim_wrapper(model, dict(optimizer=optimizer, **cfg))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(group['params'][0])]: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
    }


LAYERS = dict(
    constructor='LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.5,
        norm_decay_mult=0.0,
        custom_keys={
            '.cls_token': dict(decay_mult=0.0),
            'backbone.layers.1.ffn': dict(decay_mult=0.1),
        },
    ),
)


def test_layer_wise_decay_is_that_of_the_plain_student(make_distiller, make_vit, make_classifier):
    plain = groups(make_classifier(make_vit(16)), **LAYERS)
    distiller = make_distiller(student=make_vit(16))
    ours = groups(distiller, **LAYERS)
    for name, setting in plain.items():
        assert ours[f'student.{name}'] == setting, name
    # The stem is three layers below the head: two blocks, and what comes after them.
    assert ours['student.backbone.patch_embed.projection.weight'] == (0.5**3, 0.5)
    assert ours['student.backbone.cls_token'] == (0.5**3, 0.0)
    assert ours['student.backbone.layers.1.ffn.layers.1.bias'] == (0.5, 0.05)
    assert ours['student.head.layers.head.weight'] == (1.0, 0.5)
    # Connectors are new, as the head is.
    assert ours['connectors.a.projection.weight'] == (1.0, 0.5)
    trained = {name for name, value in distiller.named_parameters() if value.requires_grad}
    assert set(ours) == trained


def test_layer_wise_decay_needs_layers(make_distiller):
    with pytest.raises(InputError, match=r'`get_layer_depth`.*ResNet has none.*Take `constructor`'):
        groups(make_distiller(), **LAYERS)


@pytest.mark.parametrize('prefix', ['', 'student.'])
def test_names_with_and_without_the_students_prefix(make_distiller, prefix):
    keys = {f'{prefix}backbone.layer1': dict(lr_mult=0.1), f'{prefix}head': dict(decay_mult=0.2)}
    ours = groups(make_distiller(), paramwise_cfg=dict(custom_keys=keys))
    for name, (rate, decay) in ours.items():
        assert rate == pytest.approx(0.1 if name.startswith('student.backbone.layer1') else 1.0)
        assert decay == pytest.approx(0.1 if name.startswith('student.head') else 0.5)
    assert sum(name.startswith('connectors') for name in ours) > 0
