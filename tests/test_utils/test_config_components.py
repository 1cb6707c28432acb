# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""This package's components in a config, and their default types."""

from mmengine.config import Config

from mtkdrl_mm.engine.hooks import AgentHook
from mtkdrl_mm.models import MTKDRL, KLDivergence
from mtkdrl_mm.models.distillers import MultiTeacherDistiller
from mtkdrl_mm.utils.config_components import component_class, components


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
