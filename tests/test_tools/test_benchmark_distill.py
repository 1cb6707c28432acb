# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Configs that the names of the benchmark stand for."""

import importlib.util
import sys
from pathlib import Path

import pytest

from mtkdrl_mm.utils import InputError

PATH = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'benchmark_distill.py'
AGENTS = {
    'mtkdrl': ('PerTeacherAgent', 'PolicyGradient'),
    'mtkdrl_ppo': ('PerTeacherAgent', 'PPO'),
    'mtkdrl_stacking': ('JointAgent', 'MixtureLikelihood'),
}


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location('benchmark_distill', PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, 'argv', [str(PATH)])
    return module


def test_names_stand_for_configs(tool):
    args = tool.parse_args()
    assert args.configs == ['aver', 'ebkd', 'camkd', 'aekd', 'mmkd', *tool.AGENTS]
    assert tool.load_config(args, 'camkd').model.weighting.type == 'CAMKD'
    for name, (agent, algorithm) in AGENTS.items():
        cfg = tool.load_config(args, name)
        assert 'train_dataloader' not in cfg
        hook = cfg.default_hooks.agent
        assert (cfg.model.weighting.agent.type, hook.algorithm.type) == (agent, algorithm)
    # The config's own settings of the algorithm are kept.
    assert hook.algorithm.epochs == 4


def test_names_stand_for_other_students(tool):
    args = tool.parse_args()
    args.config_name = 'r34_imagenet'
    student = tool.load_config(args, 'mtkdrl_stacking').model.student
    assert student.cfg_path == 'mmpretrain::resnet/resnet34_8xb32_in1k.py'
    with pytest.raises(InputError, match='"mtkdrl_improved" is neither a config file nor one of'):
        tool.load_config(args, 'mtkdrl_improved')
