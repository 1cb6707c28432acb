# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""This package's components in a config, and their default types."""

import pytest
from mmengine.config import Config

from mtkdrl_mm.engine.hooks import AgentHook
from mtkdrl_mm.models import MTKDRL, KLDivergence
from mtkdrl_mm.models.distillers import MultiTeacherDistiller
from mtkdrl_mm.utils.config_components import component_class, components, fill_default_types


def distillation(**kwargs):
    return Config(
        dict(
            model=dict(type='mtkdrl_mm.MultiTeacherDistiller', **kwargs),
            default_hooks=dict(agent=dict(type='mtkdrl_mm.AgentHook')),
        )
    )


def test_classes_of_this_package():
    assert component_class('mtkdrl_mm.MultiTeacherDistiller') is MultiTeacherDistiller
    assert component_class('KLDivergence') is component_class(KLDivergence) is KLDivergence
    for other in ('mmpretrain.KLDivergence', 'ResNet', 'mtkdrl_mm.Nothing', dict, None):
        assert component_class(other) is None


def test_components_with_those_of_defaults():
    cfg = distillation(weighting=dict(type='MTKDRL'), student=dict(type='ImageClassifier'))
    found = dict(components(cfg.to_dict()))
    assert found['model'] is MultiTeacherDistiller and found['model.weighting'] is MTKDRL
    assert found['model.logit_loss'] is KLDivergence and found['default_hooks.agent'] is AgentHook
    names = {path: cls.__name__ for path, cls in found.items()}
    assert names['model.weighting.agent'] == 'PerTeacherAgent'
    assert names['default_hooks.agent.algorithm'] == 'PolicyGradient'
    assert 'model.student' not in names


@pytest.mark.parametrize(
    ('settings', 'options', 'expected'),
    [
        (
            {},
            {'model.logit_loss.temperature': 1.0},
            dict(logit_loss=dict(type='KLDivergence', temperature=1.0)),
        ),
        (
            {},
            {'model.feature_loss.normalize': 'dataset'},
            dict(feature_loss=dict(type='FeatureMSE', normalize='dataset')),
        ),
        # Only the name of a type.
        (
            dict(weighting='MTKDRL'),
            {'model.weighting.agent.hidden_size': 8},
            dict(weighting=dict(type='MTKDRL', agent=dict(type='PerTeacherAgent', hidden_size=8))),
        ),
        # The type is an option too, before or after the argument.
        (
            {},
            {'model.weighting.mixing': 'dynamic', 'model.weighting.type': 'MTKDRL'},
            dict(weighting=dict(mixing='dynamic', type='MTKDRL')),
        ),
        (
            dict(weighting='AVER'),
            {'model.weighting.type': 'MTKDRL', 'model.weighting.agent.hidden_size': 8},
            dict(weighting=dict(type='MTKDRL', agent=dict(type='PerTeacherAgent', hidden_size=8))),
        ),
        # The distiller chooses the type of connectors, and has no default for others.
        ({}, {'model.connector.norm_cfg': None}, dict(connector=dict(norm_cfg=None))),
        (
            dict(logit_loss=dict(type='DIST')),
            {'model.logit_loss.beta': 2},
            dict(logit_loss=dict(type='DIST', beta=2)),
        ),
    ],
)
def test_options_below_a_component_of_the_default_type(settings, options, expected):
    cfg = distillation(**settings)
    fill_default_types(cfg, options)
    cfg.merge_from_dict(options)
    assert cfg.model.to_dict() == {'type': 'mtkdrl_mm.MultiTeacherDistiller', **expected}


def test_options_below_components_of_a_hook():
    cfg = distillation()
    options = {
        'default_hooks.agent.algorithm.entropy_weight': 0.1,
        'default_hooks.agent.warmup_epochs': 2,
        'model.teachers.0.name': 'a',
    }
    cfg.model.teachers = [dict(name='b')]
    fill_default_types(cfg, options)
    cfg.merge_from_dict(options)
    assert cfg.default_hooks.agent.to_dict() == dict(
        type='mtkdrl_mm.AgentHook',
        algorithm=dict(type='PolicyGradient', entropy_weight=0.1),
        warmup_epochs=2,
    )
    assert cfg.model.teachers == [dict(name='a')] and 'logit_loss' not in cfg.model
