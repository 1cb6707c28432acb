# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Configs found in files are data."""

from importlib.util import find_spec
from pathlib import Path

import mmpretrain
import pytest
from mmengine.config import Config
from mmpretrain.registry import MODELS

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.literal_config import check_types, parse_literal_config, plain_config

ROOT = Path(__file__).parents[2]
# Whose bases are those of packages that may not be installed.
NEEDS = dict(detection='mmdet', segmentation='mmseg')
CONFIGS = sorted(
    str(p.relative_to(ROOT))
    for p in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in p.parts and find_spec(NEEDS.get(p.parent.name, 'mmpretrain'))
)


@pytest.mark.parametrize('folder', sorted({path.split('/')[1] for path in CONFIGS}))
def test_configs_of_the_project_come_back(folder):
    found = [path for path in CONFIGS if path.split('/')[1] == folder]
    assert found
    # Every fifth: mmengine takes half a second to write one down.
    for path in found[::5]:
        cfg = Config.fromfile(ROOT / path)
        assert parse_literal_config(cfg.pretty_text, path) == cfg.to_dict()


def test_values_of_all_kinds():
    values = dict(
        a=1,
        b=-1.5,
        c='it\'s "x"\n',
        d=None,
        e=True,
        f=(1,),
        g=[(1, [2]), {}],
        h={'a.b': 1, 'c-d': dict(x=1)},
        i={1: 'one', 2: [dict(y=2)]},
        j=float('inf'),
        k=-float('inf'),
        m=set(),
        n={1, 2},
        o=1e-20,
        p=b'x',
    )
    cfg = Config(values)
    assert parse_literal_config(cfg.pretty_text, 'x') == values
    assert parse_literal_config('', 'x') == {}


@pytest.mark.parametrize(
    'text',
    [
        "import os\nos.system('touch marker')",
        "a = __import__('os').system('touch marker')",
        "a = open('marker', 'w')",
        'a = (lambda: 1)()',
        'a = [x for x in (1, 2)]',
        "a = f'{open(1)}'",
        'a = dict(**b)',
        'a = dict([(1, 2)])',
        'a = {**b}',
        'a = b',
        'a = b.c',
        "a = 'x' * 10**9",
        "a = -'x'",
        'a = 1 if b else 2',
        'a, b = 1, 2',
        'a: int = 1',
        'a.b = 1',
        'a += 1',
        'def a(): pass',
        'a = (b := 1)',
        'a = [1][0]',
        'a = {[]: 1}',
        'a = set([1])',
        'if True: a = 1',
        'a = ',
        'a = \x00',
        'a = ' + '[' * 300 + ']' * 300,
        'a = ' + '-' * 100000 + '1',
    ],
)
def test_everything_else_is_refused_and_not_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r'^The config in "x\.pth" is read as plain values only'):
        parse_literal_config(text, '"x.pth"')
    assert not list(tmp_path.iterdir())


def test_a_config_as_long_as_a_bomb():
    with pytest.raises(InputError, match='is longer than 4 MiB'):
        parse_literal_config('a = 1\n' * 10**6, '"x.pth"')


@pytest.mark.parametrize(
    'kind',
    [
        'ResNet',
        'mmpretrain.ResNet',
        'mtkdrl_mm.CIFARResNet',
        'LinearClsHead',
        'BN',
        'mmpretrain.Resize',
        'mmseg.ResNetV1c',
    ],
)
def test_components_of_the_packages(kind):
    check_types(dict(model=[dict(type=kind)]), 'x')


@pytest.mark.parametrize(
    'kind',
    [
        'os.system',
        'subprocess.Popen',
        'builtins.eval',
        'mmengine.load',
        'mmengine.utils.install_package',
        'torch.hub.load',
        'torch.nn.Linear',
        'mmpretrain.models.ResNet',
        'evil.ResNet',
        'os.ResNet',
        'NoSuchThing',
        'mmpretrain.',
        '',
        3,
        None,
    ],
)
def test_other_types_would_be_imported(kind):
    with pytest.raises(InputError, match=r'no component of the installed packages.*--config'):
        check_types(dict(model=dict(backbone=(dict(type=kind),))), '"x.pth"')


def test_types_that_read_further_files():
    for kind in ('TIMMBackbone', 'mmpretrain.HuggingFaceClassifier', 'TimmClassifier'):
        with pytest.raises(InputError, match='may read further files or the network'):
            check_types(dict(type=kind), '"x.pth"')


@pytest.mark.parametrize(
    'key',
    [
        'cfg_path',
        'checkpoint',
        'checkpoint_path',
        'name_or_path',
        'pretrained_model_name_or_path',
        'trust_remote_code',
    ],
)
@pytest.mark.parametrize('network', [False, True])
def test_keys_that_name_further_files(key, network):
    config = dict(head=[dict(type='LinearClsHead', loss=({key: 'x'},))])
    with pytest.raises(
        InputError, match=f'"x.pth" sets `{key}`, by which other files may.*--config'
    ):
        check_types(config, '"x.pth"', network)


@pytest.mark.parametrize(
    'kind',
    [
        'mtkdrl_mm.MultiTeacherDistiller',
        'MultiTeacherDistiller',
        'mtkdrl_mm.DistilledBackbone',
        'VQAGenerationHead',  # unpickles `answer_list_path`
        'mmpretrain.Llava',
        'CLIPGenerator',
        'OFA',
        'ImageToImageRetriever',
        'LoadImageFromFile',
        'CIFAR10',
        'Runner',
        'default_collate',
        'torchvision/Lambda',
        'TIMMBackbone',
    ],
)
def test_networks_that_may_read_further_files(kind):
    config = dict(type='ImageClassifier', backbone=dict(type=kind))
    with pytest.raises(InputError, match=f"type '{kind}', which may read further files or the net"):
        check_types(config, '"x.pth"', network=True)


def test_registered_functions_are_no_networks():
    # mmpretrain registers the models of transformers so.
    name = 'AutoModelOfTheTest'
    MODELS.register_module(name, module=lambda **kwargs: None)
    try:
        with pytest.raises(InputError, match=f"type '{name}', which may read further files"):
            check_types(dict(type=name), '"x.pth"', network=True)
    finally:
        MODELS.module_dict.pop(name)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'os', 3])
def test_networks_of_other_packages(scope):
    loss = dict(type='CrossEntropyLoss', class_weight='weights.pkl')  # mmseg's unpickles it
    for config in (dict(loss, _scope_=scope), dict(loss, type=f'{scope}.CrossEntropyLoss')):
        with pytest.raises(InputError, match=r'of the package|no component'):
            check_types([config], '"x.pth"', network=True)
    check_types(dict(loss, _scope_='mmpretrain'), 'x', network=True)


def test_networks_of_this_package_and_of_mmpretrain():
    zoo = Path(mmpretrain.__file__).parent / '.mim/configs'
    own = sorted((ROOT / 'configs/baseline').glob('*.py'))
    paths = own[::5] + sorted(zoo.glob('*/*8xb128_in1k.py'))[::8]
    assert len(paths) > 5
    for path in paths:
        check_types(Config.fromfile(path).model, str(path), network=True)
    augments = [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
    check_types(dict(type='ImageClassifier', train_cfg=dict(augments=augments)), 'x', network=True)


def test_plain_configs_hold_no_objects():
    cfg = Config(dict(a=dict(b=(1, [dict(type=Config)])), c=2.5))
    plain = plain_config(cfg)
    assert plain == dict(a=dict(b=(1, [dict(type='mmengine.config.config.Config')])), c=2.5)
    assert type(plain['a']) is dict and type(plain['a']['b'][1][0]) is dict
