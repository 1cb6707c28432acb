# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The config key `teacher_outputs`."""

import os

import pytest

from mtkdrl_mm.teacher_outputs import TeacherOutputsSettings
from mtkdrl_mm.utils import InputError

read = TeacherOutputsSettings.from_config


def test_a_path_reads_a_store():
    settings = read('/data/store')
    assert settings == TeacherOutputsSettings(root='/data/store')
    assert settings.reads and settings.seed is None
    assert read(settings) is settings
    assert read(None) is None


@pytest.mark.parametrize(
    ('cfg', 'reads'),
    [
        (dict(root='s'), True),
        (dict(root='s', views=2, first_views=1), True),
        (dict(root='s', views=2, write=True, logits='float32', maps='full'), False),
        (dict(views=2, seed=3), False),
    ],
)
def test_whether_networks_are_needed(cfg, reads):
    settings = read(cfg)
    assert settings.reads is reads
    assert {key: getattr(settings, key) for key in cfg} == cfg


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv('HOME', '/home/me')
    assert read('~/store').root == read(dict(root='~/store')).root == '/home/me/store'
    assert read('a~b').root == 'a~b'


@pytest.mark.parametrize(
    ('cfg', 'sentence'),
    [
        (3, 'must be the folder of a store, or a dict with `root` and `views`, but is 3.'),
        (['s'], "must be the folder of a store, or a dict with `root` and `views`, but is ['s']."),
        (dict(rot='s'), 'takes no "rot". Did you mean "root" or "write"? Known: "embedding_c'),
        ('', "root` must be the path of a folder, but is ''."),
        (dict(root=3), 'root` must be the path of a folder, but is 3.'),
        (dict(views=0), 'views` must be a positive integer, but is 0.'),
        (dict(views=True), 'views` must be a positive integer, but is True.'),
        (dict(views='2'), "views` must be a positive integer, but is '2'."),
        (dict(root='s', first_views=0), 'first_views` must be a positive integer, but is 0.'),
        (dict(views=1, map_channels=1.5), 'map_channels` must be a positive integer, but is 1.5.'),
        (
            dict(views=1, embedding_channels=0),
            'embedding_channels` must be a positive integer, but is 0.',
        ),
        (dict(views=1, embeddings='no'), "embeddings` must be one of 'full', 'projected', but is"),
        (dict(root='s', embeddings='full'), 'embeddings` is for `write=True`: what a store holds'),
        (dict(views=1, seed=-1), 'seed` must be an integer from 0, but is -1.'),
        (dict(views=1, logits='half'), "logits` must be one of 'float16', 'float32', but is 'half"),
        (dict(views=1, maps=False), "maps` must be one of 'none', 'pooled', 'full', 'projected', "),
        (dict(root='s', views=1, write='yes'), "write` must be one of True, False, but is 'yes'."),
        (dict(), '` names no store: set `views`, the number of augmented views per image.'),
        (
            dict(root='s', write=True),
            '` writes a store: set `views`, the number of augmented views',
        ),
        (dict(views=1, write=True), '` has `write=True`: set `root`, the folder.'),
        (dict(root='s', maps='full'), 'maps` is for `write=True`: what a store holds was chosen '),
        (dict(views=1, logits='float32'), 'logits` is for `write=True`: what a store holds was '),
        (dict(views=2, first_views=1), 'first_views` is for reading a store: set `views` instead.'),
    ],
)
def test_what_is_refused(cfg, sentence):
    with pytest.raises(InputError) as error:
        read(cfg)
    assert str(error.value).startswith('`teacher_outputs')
    assert sentence in str(error.value)
    assert os.linesep not in str(error.value)
