# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Hooks are found wherever a config has them."""

from mmengine.hooks import EMAHook

from mtkdrl_mm.engine.hooks import AgentHook
from mtkdrl_mm.utils.hook_configs import find_hook, hook_configs, kind_of


def test_all_hooks_of_a_config():
    first, second = dict(type='LoggerHook'), dict(type='mtkdrl_mm.AgentHook', update_interval=3)
    cfg = dict(default_hooks=dict(logger=first, timer=None), custom_hooks=[EMAHook(), second])
    assert hook_configs(cfg) == [first, second]
    assert hook_configs({}) == hook_configs(dict(default_hooks=None, custom_hooks=None)) == []
    assert find_hook(cfg, 'AgentHook') is second
    assert find_hook(cfg, 'MetaLearningHook') is None


def test_names_of_classes():
    assert kind_of(dict(type='mtkdrl_mm.AgentHook')) == kind_of(dict(type=AgentHook))
    assert kind_of(dict(type='AgentHook')) == 'AgentHook' and kind_of({}) == ''
