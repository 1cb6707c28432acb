# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The examples in the docstrings run and give the results that they show."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import mtkdrl_mm

# The most used classes and functions, each of which has an example.
MOST_USED = [
    'mtkdrl_mm.datasets.SeededDataset',
    'mtkdrl_mm.engine.hooks.AgentHook',
    'mtkdrl_mm.engine.hooks.TeacherCheckHook',
    'mtkdrl_mm.engine.runner.ResumableRunner',
    'mtkdrl_mm.models.AVER',
    'mtkdrl_mm.models.FeatureMSE',
    'mtkdrl_mm.models.KLDivergence',
    'mtkdrl_mm.models.MTKDRL',
    'mtkdrl_mm.models.MultiTeacherDistiller',
    'mtkdrl_mm.models.TeacherPool',
    'mtkdrl_mm.models.TimmFeatures',
    'mtkdrl_mm.models.distilled_backbone.DistilledBackbone',
    'mtkdrl_mm.rl.StateLayout',
    'mtkdrl_mm.utils.seeding.derive_seed',
]


def modules_with_examples():
    """Names of the modules of the package whose source has examples."""
    names = []
    for info in pkgutil.walk_packages(mtkdrl_mm.__path__, 'mtkdrl_mm.'):
        path = info.module_finder.find_spec(info.name).origin
        with open(path, encoding='utf-8') as file:
            if '>>> ' in file.read():
                names.append(info.name)
    return names


@pytest.mark.parametrize('name', MOST_USED)
def test_the_most_used_have_an_example(name):
    module, _, attribute = name.rpartition('.')
    assert '>>> ' in inspect.getdoc(getattr(importlib.import_module(module), attribute))


@pytest.mark.parametrize('name', modules_with_examples())
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # mmengine looks for compilers, to log them, whenever a runner is built.
    monkeypatch.setattr('mmengine.runner.runner.collect_env', lambda: {})
    result = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert result.attempted > 0 and result.failed == 0
