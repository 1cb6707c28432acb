# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The text of a training's config is formatted once."""

import copy

import pytest
from mmengine.config import Config

from mtkdrl_mm.engine.formatted_config import FormattedConfig

CONTENT = dict(
    model=dict(type='A', sizes=[1, 2], where=('x', dict(y=None))), lr=0.1, names={'a b': 'c'}
)


@pytest.fixture
def formatted(monkeypatch):
    """The texts that were given to yapf."""
    texts = []
    # mmengine's maintained fork imports it where it is used.
    for name in ('mmengine.config.config.FormatCode', 'yapf.yapflib.yapf_api.FormatCode'):
        monkeypatch.setattr(
            name, lambda text, **_: (texts.append(text) or f'# {text}', True), raising=False
        )
    return texts


def test_text_is_mmengines():
    config = Config(copy.deepcopy(CONTENT))
    assert FormattedConfig.of(config).pretty_text == config.pretty_text


def test_formatted_again_only_after_a_change(formatted, tmp_path):
    config = FormattedConfig.of(Config(copy.deepcopy(CONTENT)))
    first = config.pretty_text
    config.dump(tmp_path / 'config.py')
    same = copy.deepcopy(config)
    assert same.pretty_text == config.pretty_text == (tmp_path / 'config.py').read_text() == first
    assert len(formatted) == 1
    # In a nested list, by attribute, by key, and of the copy alone.
    config.model.sizes[1] = 3
    assert '3,' in config.pretty_text and '3,' not in same.pretty_text
    config.lr = 0.2
    assert 'lr=0.2' in config.pretty_text
    config.pop('lr')
    assert 'lr=' not in config.pretty_text and 'lr=0.1' in same.pretty_text
    assert len(formatted) == 4


def test_keys_and_type_are_those_of_the_config(formatted):
    config = Config(copy.deepcopy(CONTENT), filename=None)
    other = FormattedConfig.of(config)
    _ = other.pretty_text
    assert isinstance(other, Config) and set(other) == set(CONTENT)
    assert other.to_dict() == CONTENT and other.filename == config.filename
